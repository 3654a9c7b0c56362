import pickle
import resource
from pathlib import Path

import pyarrow as pa
import pytest

from vila2_ray.errors import ConditionFailed, CorpusError, StorageError
from vila2_ray.globs import glob
from vila2_ray.storage import Store, absolute, split_uri


def test_files_are_listed_read_and_removed(tmp_path: Path) -> None:
    store = Store(tmp_path / "new")
    assert store.list() == []
    store.write_text("a/b.txt", "hello")
    store.write_bytes("c.bin", b"\x00\x01\x02")
    assert store.list() == ["a/b.txt", "c.bin"]
    assert store.list("a") == ["a/b.txt"]
    assert store.list(suffix=".bin") == ["c.bin"]
    assert (store.size("c.bin"), store.read_range("c.bin", 1, 2)) == (3, b"\x01\x02")
    assert store.sub("a").read_text("b.txt") == "hello"
    store.delete("c.bin")
    store.delete("c.bin")
    store.delete_tree("a")
    assert store.list() == []


def test_tables_carry_metadata(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_table("t.parquet", pa.table({"x": [1, 2]}), {"layer": "round-1"})
    assert store.num_rows("t.parquet") == 2
    assert store.read_metadata("t.parquet")["layer"] == "round-1"
    assert store.read_table("t.parquet", columns=["x"]).column("x").to_pylist() == [1, 2]


def test_a_broken_table_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_bytes("t.parquet", b"not parquet at all")
    with pytest.raises(CorpusError, match=r"t.parquet: not a readable Parquet file"):
        store.read_table("t.parquet")


def test_missing_files_say_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no such file"):
        Store(tmp_path).read_bytes("nothing")


def test_a_half_written_file_is_never_seen(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / ".tmp-0123").write_bytes(b"half")
    assert store.list() == []


def test_a_full_disk_leaves_nothing_and_says_what_to_do(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_text("kept", "old")
    import signal

    old_limit, old_handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write then fails as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, old_limit[1]))
    try:
        with pytest.raises(StorageError, match="disk is full; free some space"):
            store.write_bytes("kept", b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
        signal.signal(signal.SIGXFSZ, old_handler)
    assert store.read_text("kept") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_conditional_writes_let_one_writer_through(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = store.put_if("lease.json", b"1", None)
    with pytest.raises(ConditionFailed):
        store.put_if("lease.json", b"2", None)
    second = store.put_if("lease.json", b"2", first)
    with pytest.raises(ConditionFailed):
        store.put_if("lease.json", b"3", first)
    assert store.read_versioned("lease.json") == (b"2", second)


def test_globs_and_folders(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in ("a/1.tar", "a/2.tar", "b/1.tar", "c.txt"):
        store.write_text(name, "x")
    relative = lambda uris: [str(Path(uri).relative_to(tmp_path)) for uri in uris]  # noqa: E731
    assert relative(glob(f"{tmp_path}/*/1.tar")) == ["a/1.tar", "b/1.tar"]
    assert relative(glob(f"{tmp_path}/a")) == ["a/1.tar", "a/2.tar"]
    assert relative(glob(f"{tmp_path}/**/*.tar")) == ["a/1.tar", "a/2.tar", "b/1.tar"]
    assert relative(glob(f"{tmp_path}/a/[12].tar")) == ["a/1.tar", "a/2.tar"]
    assert relative(glob(f"{tmp_path}/c.txt")) == ["c.txt"]
    with pytest.raises(CorpusError, match="no file there"):
        glob(f"{tmp_path}/nothing/*.tar")


def test_paths_are_absolute_and_stores_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("runs/x") == str(tmp_path / "runs/x")
    assert absolute("s3://bucket/x/") == "s3://bucket/x"
    assert split_uri("s3://bucket/x/y.tar") == ("s3://bucket/x", "y.tar")
    assert pickle.loads(pickle.dumps(Store("runs"))).uri == str(tmp_path / "runs")
