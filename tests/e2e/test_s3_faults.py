"""Bad networks and busy servers between us and S3: what may pass is tried again, what cannot is said at once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.s3 import FAULTS, Choose, FaultyProxy, free_port, seeded
from vila2_ray import s3
from vila2_ray.campaign.lease import Lease
from vila2_ray.corpus.layers import Layer, Parts
from vila2_ray.errors import CampaignBusy, ConditionFailed, StorageError
from vila2_ray.globs import glob
from vila2_ray.schema import CAPTION
from vila2_ray.storage import Store

Between = Callable[[Choose], contextlib.AbstractContextManager[FaultyProxy]]


@pytest.fixture
def between(bucket: str, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Between:
    """Puts a proxy between us and the server. Only our own retry is at work, and it waits little."""
    monkeypatch.setattr(s3, "PATIENCE", s3.Patience(12, 0.01, 0.05, 60.0))
    monkeypatch.setattr(s3, "_REQUEST_ATTEMPTS", 1)

    @contextlib.contextmanager
    def start(choose: Choose) -> Iterator[FaultyProxy]:
        with FaultyProxy(s3_server, choose) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
            yield proxy
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)

    return start


@pytest.mark.parametrize("kind", FAULTS)
def test_files_come_through(bucket: str, between: Between, kind: str, tmp_path: Path) -> None:
    store, data = Store(f"{bucket}/files-{kind}"), bytes(range(256)) * 2000
    with between(seeded(1, 0.3, [kind])) as proxy:
        for number in range(4):
            store.write_bytes(f"{number}.bin", data + bytes([number]))
        assert [store.read_bytes(f"{number}.bin") for number in range(4)] == [data + bytes([n]) for n in range(4)]
        assert store.read_range("1.bin", 1000, 300) == data[1000:1300]
        assert (store.exists("2.bin"), store.exists("9.bin"), store.size("3.bin")) == (True, False, len(data) + 1)
        table = pa.table({"x": range(1000)})
        store.write_table("t.parquet", table, {"k": "v"})
        assert store.read_table("t.parquet", ["x"]).column("x").equals(table["x"])
        assert (store.read_metadata("t.parquet")["k"], store.num_rows("t.parquet")) == ("v", 1000)
        assert glob(f"{store.uri}/[01].bin") == [f"{store.uri}/0.bin", f"{store.uri}/1.bin"]
        with pytest.raises(StorageError, match="no such file"):
            store.read_bytes("9.bin")
        store.upload_folder(store.local_folder(), "copy")
        assert store.read_bytes("copy/3.bin") == data + b"\3"
        store.delete("3.bin")
        store.delete_tree("copy")
        assert store.list() == ["0.bin", "1.bin", "2.bin", "t.parquet"]
    assert proxy.counts[kind] >= 5


def test_many_parts_of_a_large_file(bucket: str, between: Between, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_TRANSFER", s3.TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20))
    store, data = Store(f"{bucket}/large"), bytes(range(256)) * (48 << 10)
    with between(seeded(4, 0.15)):
        store.write_bytes("12-megabytes.bin", data)
        assert store.read_bytes("12-megabytes.bin") == data


def test_an_upload_that_fails_for_good_leaves_nothing(
    bucket: str, between: Between, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "_TRANSFER", s3.TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20))
    monkeypatch.setattr(s3, "PATIENCE", s3.Patience(3, 0.01, 0.05, 60.0))
    store = Store(f"{bucket}/half")
    with (
        between(lambda method, path: "cut" if "partNumber=2" in path and method == "PUT" else ""),
        pytest.raises(StorageError, match="no success in 3 attempts"),
    ):
        store.write_bytes("large.bin", bytes(12 << 20))
    assert store.list() == []
    assert "Uploads" not in s3.client().list_multipart_uploads(Bucket=s3.Place.of(bucket).bucket)


def test_a_conditional_write_whose_answer_was_lost_is_known_as_our_own(bucket: str, between: Between) -> None:
    store, lost = Store(f"{bucket}/lost"), {"lease.json"}

    def choose(method: str, path: str) -> str:
        return "lost" if method == "PUT" and lost and lost.pop() else ""

    with between(choose) as proxy:
        first = store.put_if("lease.json", b"1", None)
        lost.add("once more")
        second = store.put_if("lease.json", b"2", first)
        assert proxy.counts["lost"] == 2
        assert store.read_versioned("lease.json") == (b"2", second)
        with pytest.raises(ConditionFailed):  # the same content, but nothing of ours was lost
            store.put_if("lease.json", b"2", first)
        with pytest.raises(ConditionFailed):
            store.put_if("lease.json", b"2", None)


@pytest.mark.parametrize("seed", [1, 2])
def test_conditional_writes_under_faults(bucket: str, between: Between, seed: int) -> None:
    store, version = Store(f"{bucket}/conditional-{seed}"), None
    with between(seeded(seed, 0.3)):
        for number in range(12):
            before, version = version, store.put_if("x", b"%d" % number, version)
            with pytest.raises(ConditionFailed):
                store.put_if("x", b"other", before)
    assert store.read_versioned("x") == (b"11", version)


def test_the_lease_is_kept_under_faults(bucket: str, between: Between) -> None:
    store = Store(f"{bucket}/lease")
    with between(seeded(7, 0.25)), Lease(store, lifetime_seconds=4.0) as lease:
        with pytest.raises(CampaignBusy), Lease(store, lifetime_seconds=4.0):
            pass
        for _ in range(5):
            lease.check()
            time.sleep(0.2)


@pytest.mark.parametrize("seed", [1, 2])
def test_parts_become_a_layer_under_faults(bucket: str, between: Between, seed: int) -> None:
    layer, parts = Layer(Store(f"{bucket}/layer-{seed}")), Parts(Store(f"{bucket}/parts-{seed}"))
    with between(seeded(seed, 0.25)):
        for start in range(0, 40, 8):
            rows = [
                {"source": "s", "shard": "0", "row": row, "sample_id": f"0/{row}", "variant": 0, "status": "captioned",
                 "text": f"caption {row}"} for row in range(start, start + 8)
            ]  # fmt: skip
            parts.write("s", "0", start, start + 8, pa.Table.from_pylist(rows, CAPTION))
        assert parts.finish(layer, "s", "0", 40, 1, {"layer": "round-1"}) == {"captioned": 40}
    assert layer.to_table()["text"].to_pylist() == [f"caption {row}" for row in range(40)]
    assert not parts.ranges()


def test_a_server_that_falls_silent_is_asked_again(
    bucket: str, between: Between, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "REQUEST_SECONDS", 1)
    Store(f"{bucket}/silent").write_text("x", "hello")
    silent = ["GET", "PUT"]

    def choose(method: str, path: str) -> str:
        if method not in silent:
            return ""
        silent.remove(method)
        return "silent"

    began = time.monotonic()
    with between(choose) as proxy:
        assert Store(f"{bucket}/silent").read_text("x") == "hello"
        Store(f"{bucket}/silent").write_text("y", "hello")
    assert proxy.counts["silent"] == 2
    assert time.monotonic() - began < 15


def test_a_server_that_goes_away_under_an_open_file_is_given_up(
    bucket: str, between: Between, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PATIENCE", s3.Patience(3, 0.01, 0.05, 10.0))
    store, gone = Store(f"{bucket}/going"), False
    store.write_table("t.parquet", pa.table({"x": range(300_000)}))
    with between(lambda method, path: "reset" if gone else ""), store.open("t.parquet") as file:
        assert file.read_at(4, 0) == b"PAR1"
        gone = True
        with pytest.raises(StorageError, match=r"going/t.parquet: no success in 3 attempts"):
            file.read_at(4, 0)
        gone = False
        table = pq.ParquetFile(file)
        gone = True
        with pytest.raises(StorageError, match=r"going/t.parquet: no success in 3 attempts"):
            table.read()


OPERATIONS: dict[str, Callable[[Store], object]] = {
    "list": lambda store: store.list(),
    "exists": lambda store: store.exists("x"),
    "read": lambda store: store.read_bytes("x"),
    "write": lambda store: store.write_bytes("x", b"1"),
    "read_versioned": lambda store: store.read_versioned("x"),
    "put_if": lambda store: store.put_if("x", b"1", None),
    "delete": lambda store: store.delete("x"),
    "delete_tree": lambda store: store.delete_tree(),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_wrong_secret_is_said_at_once_and_never_told(bucket: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    began = time.monotonic()
    with pytest.raises(StorageError, match=r"s3://.*refused.*check AWS_ACCESS_KEY_ID") as caught:
        OPERATIONS[name](Store(f"{bucket}/files"))
    assert time.monotonic() - began < 3
    error: BaseException | None = caught.value
    while error is not None:
        assert "not-the-secret" not in f"{error} {error!r}"
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_server_that_is_gone_is_given_up(bucket: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PATIENCE", s3.Patience(3, 0.05, 0.2, 10.0))
    monkeypatch.setattr(s3, "_REQUEST_ATTEMPTS", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    began = time.monotonic()
    with pytest.raises(StorageError, match=r"s3://.*no success in 3 attempts.*check AWS_ENDPOINT_URL"):
        OPERATIONS[name](Store(f"{bucket}/files"))
    assert time.monotonic() - began < 5
