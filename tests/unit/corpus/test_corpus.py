from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import Any

import pytest

from vila2_ray.config import ColumnsConfig
from vila2_ray.corpus.index import build_index
from vila2_ray.errors import CorpusError
from vila2_ray.progress import NullProgress
from vila2_ray.schema import INDEX


@pytest.fixture
def folder(build: Any, tmp_path: Path) -> Path:
    for i in range(4):
        build.tar(tmp_path / "s" / f"{i:05}.tar", build.samples(3 + i))
    return tmp_path / "s"


def test_build_index_once(build: Any, folder: Path, tmp_path: Path) -> None:
    corpus = build.corpus(folder, tmp_path / "i")
    assert not corpus.is_indexed("00000")
    made: list[str] = []

    def run(function: Any, shards: Any) -> Any:
        for ref in reversed(shards):
            made.append(ref.shard)
            yield pickle.loads(pickle.dumps(function))(ref)  # as an executor in another process would

    summary = build_index(corpus.shards, corpus.columns, corpus.index_store, NullProgress(), run)
    assert (summary.num_shards, summary.num_samples, summary.num_without_alt_text) == (4, 18, 0)
    assert made == ["00003", "00002", "00001", "00000"]
    again = build_index(corpus.shards, corpus.columns, corpus.index_store, NullProgress(), run)
    assert (again, len(made)) == (summary, 4)
    assert corpus.is_indexed("00000")
    assert corpus.total_rows() == 18
    assert corpus.index("00003").schema.equals(INDEX)


def test_a_killed_index_goes_on(build: Any, folder: Path, tmp_path: Path) -> None:
    corpus = build.corpus(folder, tmp_path / "i")
    build_index(corpus.shards[:2], corpus.columns, corpus.index_store, NullProgress())
    made = []

    def run(function: Any, shards: Any) -> Any:
        made.extend(ref.shard for ref in shards)
        return map(function, shards)

    assert build_index(corpus.shards, corpus.columns, corpus.index_store, NullProgress(), run).num_samples == 18
    assert made == ["00002", "00003"]


def test_only_what_changed_is_indexed_again(build: Any, folder: Path, tmp_path: Path) -> None:
    corpus = build.corpus(folder, tmp_path / "i")
    build_index(corpus.shards, corpus.columns, corpus.index_store, NullProgress())
    build.tar(folder / "00001.tar", build.samples(100))
    other = build.corpus(folder, tmp_path / "i")
    assert [other.is_indexed(ref) for ref in other.shards] == [True, False, True, True]
    assert other.num_rows("00001") == 100
    renamed = build.corpus(folder, tmp_path / "i", ColumnsConfig(alt_text="other"))
    assert not renamed.is_indexed("00000")


def test_a_corpus_composed_anew_in_the_same_place(build: Any, tmp_path: Path) -> None:
    """Tars are padded: another content often has the same number of bytes."""
    sizes = set()
    for text in (b"one", b"eleven"):
        members = [("a.txt", text), ("a.png", build.picture())]
        sizes.add(build.tar(tmp_path / "s" / "0.tar", members if text == b"one" else members[::-1]).stat().st_size)
        (sample,) = build.corpus(tmp_path / "s", tmp_path / "i").read("0")
        assert sample.alt_text == text.decode()
    assert len(sizes) == 1


def test_the_digest_follows_the_content(build: Any, folder: Path, tmp_path: Path) -> None:
    first = build.corpus(folder, tmp_path / "i").digest()
    assert build.corpus(folder, tmp_path / "j").digest() == first
    assert build.corpus(f"{folder}/*.tar", tmp_path / "k").digest() == first
    assert build.corpus(folder.rename(tmp_path / "moved"), tmp_path / "i").digest() == first
    folder = tmp_path / "moved"
    build.tar(folder / "00004.tar", build.samples(1))
    assert build.corpus(folder, tmp_path / "i").digest() != first


def test_problems_are_counted(build: Any, tmp_path: Path) -> None:
    members = [*build.samples(2), *build.samples(1), ("x.txt", b"alone"), ("y.png", build.picture())]
    build.tar(tmp_path / "s" / "0.tar", members)
    corpus = build.corpus(tmp_path / "s", tmp_path / "i")
    summary = build_index(corpus.shards, corpus.columns, corpus.index_store, NullProgress())
    assert summary.problems == {"duplicate_key": 1, "no_image": 1}
    assert (summary.num_samples, summary.num_without_alt_text) == (5, 1)


def test_a_pickled_corpus_reads_the_same(build: Any, folder: Path, tmp_path: Path) -> None:
    corpus = build.corpus(folder, tmp_path / "i")
    told = [s.image for s in corpus.read(corpus.shards[1])]
    copy = pickle.loads(pickle.dumps(corpus))
    assert [s.image for s in copy.read("00001")] == told
    assert copy.digest() == corpus.digest()


def test_few_indexes_stay_in_memory(build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vila2_ray.corpus.corpus._CACHED_INDEXES", 8)
    for i in range(12):
        build.tar(tmp_path / "s" / f"{i}.tar", build.samples(1))
    corpus = build.corpus(tmp_path / "s", tmp_path / "i")
    for ref in corpus.shards:
        corpus.index(ref)
    assert len(corpus._indexes) == 8


def test_unknown_shards(build: Any, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no shard of this corpus"):
        build.corpus(folder, tmp_path / "i").num_rows("00009")


def test_wrong_types_name_the_file(build: Any, folder: Path, tmp_path: Path) -> None:
    (folder / "00002.tar").write_bytes(b"<html>" * 200)
    corpus = build.corpus(folder, tmp_path / "i")
    with pytest.raises(CorpusError, match=r"00002\.tar: not a tar archive"):
        build_index(corpus.shards, corpus.columns, corpus.index_store, NullProgress())


def test_ranges_are_read_fast(build: Any, tmp_path: Path) -> None:
    """Thousands of samples a second from one range: an engine must never wait for the tar."""
    picture = build.picture(size=(96, 96), format="BMP")
    members = [
        m for i in range(512) for m in ((f"{i:05}.bmp", picture), (f"{i:05}.txt", b"alt"), (f"{i:05}.json", b"{}"))
    ]
    build.tar(tmp_path / "s" / "0.tar", members)
    corpus = build.corpus(tmp_path / "s", tmp_path / "i")
    corpus.index("0")
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        assert sum(len(s.image or b"") for s in corpus.read("0", range(128, 384))) == 256 * len(picture)
        seconds.append(time.perf_counter() - began)
    assert 256 / min(seconds) > 5000
