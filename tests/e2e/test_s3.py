"""The same campaign folder on a real S3 server: listing, atomic and conditional writes, layers, the lease."""

import io
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest

from tests.s3 import FaultyProxy
from vila2_ray import s3
from vila2_ray.campaign.lease import Lease
from vila2_ray.campaign.state import Marker, fence_markers, read_markers, write_marker
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.layers import Layer, Parts
from vila2_ray.errors import CampaignBusy, ConditionFailed, StorageError
from vila2_ray.globs import glob
from vila2_ray.schema import CAPTION
from vila2_ray.storage import Store


def test_files_and_tables(bucket: str) -> None:
    store = Store(f"{bucket}/files")
    store.write_text("a/b.txt", "hello")
    store.write_table("t.parquet", pa.table({"x": [1]}), {"k": "v"})
    assert store.list() == ["a/b.txt", "t.parquet"]
    assert (store.read_range("a/b.txt", 1, 2), store.read_metadata("t.parquet")["k"]) == (b"el", "v")
    assert glob(f"{bucket}/files/*/b.*") == [f"{bucket}/files/a/b.txt"]
    assert store.sub("a").local_folder().joinpath("b.txt").read_text() == "hello"
    store.delete("a/b.txt")
    assert store.list() == ["t.parquet"]


def test_conditional_writes(bucket: str) -> None:
    store = Store(f"{bucket}/conditional")
    first = store.put_if("x.json", b"1", None)
    with pytest.raises(ConditionFailed):
        store.put_if("x.json", b"2", None)
    second = store.put_if("x.json", b"2", first)
    with pytest.raises(ConditionFailed):
        store.put_if("x.json", b"3", first)
    assert store.read_versioned("x.json") == (b"2", second)
    assert store.read_versioned("missing.json") is None


def test_the_lease_lets_one_driver_in(bucket: str) -> None:
    with Lease(Store(f"{bucket}/lease"), lifetime_seconds=2.0) as first:
        first.check()
        with pytest.raises(CampaignBusy), Lease(Store(f"{bucket}/lease"), lifetime_seconds=2.0):
            pass
    with Lease(Store(f"{bucket}/lease"), lifetime_seconds=2.0) as second:
        assert second.epoch == first.epoch + 1


def test_shards_are_indexed_and_parts_become_a_layer(bucket: str, tmp_path: Path) -> None:
    from vila2_ray.recipes.tiny.corpus import write_corpus

    write_corpus(tmp_path, pretrain_shards=1, shard_size=6, sft=1, heldout=1, experts=1, processes=1)
    Store(f"{bucket}/shards").upload_folder(tmp_path / "pretrain")
    corpus = Corpus.open(f"{bucket}/shards/*.tar", "pretrain", Store(f"{bucket}/index"))
    samples = list(corpus.read(corpus.shards[0]))
    assert len(samples) == 6
    assert all(corpus.decode(sample).size == (96, 96) for sample in samples)
    layer, parts = Layer(Store(f"{bucket}/layer")), Parts(Store(f"{bucket}/parts"))
    rows = [
        {"source": s.source, "shard": s.shard, "row": s.row, "sample_id": s.sample_id, "variant": 0,
         "status": "captioned", "text": s.sample_id} for s in samples
    ]  # fmt: skip
    for start, stop in ((0, 4), (4, 6)):
        table = pa.Table.from_pylist(rows[start:stop], schema=CAPTION)
        parts.write("pretrain", corpus.shards[0].shard, start, stop, table)
    parts.finish(layer, "pretrain", corpus.shards[0].shard, 6, 1, {"layer": "round-1"})
    assert layer.to_table().num_rows == 6
    assert not parts.ranges()


@pytest.mark.parametrize("when", ["before", "between"])
def test_a_driver_that_was_only_paused_cannot_write(bucket: str, when: str) -> None:
    """A real process, really stopped; it wakes up after another one has taken over, and before that one writes."""
    store = Store(f"{bucket}/paused-{when}")
    script = Path(__file__).with_name("paused_driver.py")
    driver = subprocess.Popen([sys.executable, str(script), store.uri, "1.0", when], stdout=subprocess.PIPE, text=True)
    try:
        _, status = os.waitpid(driver.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        with Lease(store, lifetime_seconds=1.0) as lease:
            assert (lease.epoch, lease.took_over) == (2, True)
            fence_markers(store, ["index", "align"], lease.epoch)
            driver.send_signal(signal.SIGCONT)
            assert driver.communicate(timeout=60)[0].split() == ["lost"]
            assert set(read_markers(store)) == {"index"}
            lease.check()
            write_marker(store, Marker("align", "f" * 64, {}, {}, "of the second", lease.epoch), lease.check)
        assert read_markers(store)["align"].epoch == 2
    finally:
        driver.kill()
        driver.wait(20)


def test_a_driver_that_gave_its_lease_back_needs_no_fence(bucket: str) -> None:
    store = Store(f"{bucket}/given-back")
    with Lease(store, lifetime_seconds=2.0) as first:
        assert not first.took_over
    with Lease(store, lifetime_seconds=2.0) as second:
        assert not second.took_over


def test_a_folder_reaches_a_node_once(
    bucket: str, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four processes want the same weights at the same time; what a killed one left behind is cleaned away."""
    (tmp_path / "weights/deep").mkdir(parents=True)
    (tmp_path / "weights/model.bin").write_bytes(bytes(range(256)) * 80_000)
    (tmp_path / "weights/deep/config.json").write_text("{}")
    Store(f"{bucket}/weights").upload_folder(tmp_path / "weights")
    monkeypatch.setenv("VILA2_CACHE", str(tmp_path / "cache"))
    earlier = Store(f"{bucket}/weights").local_folder()
    leftover = earlier.rename(earlier.with_name(f".tmp-{earlier.name}"))
    (leftover / "half.bin").write_bytes(b"half")
    gets: list[str] = []

    def choose(method: str, path: str) -> str:
        gets.extend([path] if method == "GET" and path.endswith("config.json") else [])
        return ""

    with FaultyProxy(s3_server, choose) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        command = [sys.executable, str(Path(__file__).with_name("fetching.py")), f"{bucket}/weights"]
        fetching = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
        folders = {process.communicate(timeout=100)[0].strip() for process in fetching}
    (folder,) = map(Path, folders)
    assert folder == earlier
    assert len(gets) == 1
    assert (folder / "model.bin").read_bytes() == (tmp_path / "weights/model.bin").read_bytes()
    assert sorted(path.name for path in folder.rglob("*")) == ["config.json", "deep", "model.bin"]
    assert not leftover.exists()


def test_another_content_is_fetched_anew(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VILA2_CACHE", str(tmp_path))
    store = Store(f"{bucket}/changing")
    store.write_text("a.txt", "first")
    first = store.local_folder()
    assert store.local_folder() == first
    store.write_text("a.txt", "second")
    assert [folder.joinpath("a.txt").read_text() for folder in (first, store.local_folder())] == ["first", "second"]
    with pytest.raises(StorageError, match="no such folder"):
        store.sub("nothing").local_folder()


def test_a_tar_is_indexed_and_read_in_pieces(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that cross the wire are those of headers, texts and the samples asked for, not those of the shard."""
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for number in range(8):
            for name, data in ((f"{number}.png", os.urandom(2_000_000)), (f"{number}.txt", b"alt")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    Store(f"{bucket}/streamed").upload_folder(tmp_path)
    pieces: list[int] = []
    original = s3._RetryingFile._read_at
    monkeypatch.setattr(s3._RetryingFile, "_read_at", lambda self, n: pieces.append(n) or original(self, n))
    corpus = Corpus.open(f"{bucket}/streamed/*.tar", "pretrain", Store(f"{bucket}/streamed-index"))
    assert corpus.total_rows() == 8
    assert max(pieces) <= 1 << 20
    assert sum(pieces) < 9_000_000  # of 16
    pieces.clear()
    assert [len(sample.image or b"") for sample in corpus.read("0", [5])] == [2_000_000]
    assert sum(pieces) < 2_400_000
