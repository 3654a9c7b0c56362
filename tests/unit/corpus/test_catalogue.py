"""One listing and one read tell of all shards; without the catalogue, or where it is old, the index files do."""

from __future__ import annotations

import os
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from vila2_ray.config import ColumnsConfig
from vila2_ray.corpus.catalogue import catalogued_samples
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.index import IndexSummary, build_index
from vila2_ray.corpus.shards import find_shards
from vila2_ray.progress import NullProgress
from vila2_ray.storage import Store

NAME = "pretrain.catalogue.parquet"


@pytest.fixture
def corpus(build: Any, tmp_path: Path) -> Corpus:
    for i in range(6):
        build.tar(tmp_path / "s" / f"{i:05}.tar", build.samples(3 + i))
    corpus: Corpus = build.corpus(tmp_path / "s", tmp_path / "i")
    indexed(corpus)
    return corpus


def indexed(corpus: Corpus) -> IndexSummary:
    return build_index(corpus.shards, corpus.columns, corpus.index_store, NullProgress())


def again(corpus: Corpus, columns: ColumnsConfig | None = None) -> Corpus:
    return Corpus.open(str(Path(corpus.shards[0].uri).parent), "pretrain", corpus.index_store, columns)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a single file was looked at or read, by file name; listings are counted under `list`."""
    counts: Counter[str] = Counter()

    def counted(method: str, label: str | None = None) -> None:
        original = getattr(Store, method)

        def call(store: Store, name: str = "", *more: Any, **options: Any) -> Any:
            counts[label or os.path.basename(name or store.uri)] += 1
            return original(store, name, *more, **options)

        monkeypatch.setattr(Store, method, call)

    for method in ("_info", "open"):
        counted(method)
    counted("_files", "list")
    return counts


def test_an_indexed_corpus_is_opened_with_one_listing_and_one_read(corpus: Corpus, asked: Counter[str]) -> None:
    digest = corpus.digest()
    asked.clear()
    other = again(corpus)
    assert (other.total_rows(), [rows for _, rows in other.rows_by_shard()]) == (33, [3, 4, 5, 6, 7, 8])
    assert (other.num_rows("00002"), other.digest()) == (5, digest)
    del asked["s"]  # whether the corpus is a file
    assert asked == {"list": 1, NAME: 2}  # is it there, read it
    assert indexed(other) == indexed(again(corpus))
    assert asked == {"list": 4, NAME: 6, "s": 2}  # nothing of a single shard


def test_without_the_catalogue_nothing_is_lost(corpus: Corpus) -> None:
    expected = corpus.digest(), corpus.total_rows()
    where = Path(corpus.index_store.uri, NAME)
    for damage in (where.unlink, lambda: where.write_bytes(b"not parquet")):
        damage()
        other = again(corpus)
        assert (other.digest(), other.total_rows(), other.num_rows("00001")) == (*expected, 4)
    indexed(again(corpus))
    assert catalogued_samples(corpus.index_store, "pretrain") == {f"{i:05}": 3 + i for i in range(6)}


def test_a_touched_shard_is_looked_at_by_itself(build: Any, corpus: Corpus, asked: Counter[str]) -> None:
    build.tar(Path(corpus.shards[1].uri), build.samples(40))
    other = again(corpus)
    assert [rows for _, rows in other.rows_by_shard()] == [3, 40, 5, 6, 7, 8]
    assert {name for name in asked if name.endswith("tar")} == {"00001.tar"}
    assert {name for name in asked if name.startswith("0") and name.endswith("parquet")} == {"00001.parquet"}
    assert len(list(other.read("00001"))) == 40
    assert indexed(again(corpus)).num_samples == 69
    assert catalogued_samples(corpus.index_store, "pretrain")["00001"] == 40


def test_a_deleted_index_file_is_made_again(corpus: Corpus) -> None:
    Path(corpus.index_store.uri, "pretrain/00003.parquet").unlink()
    assert again(corpus).index("00003").num_rows == 6
    Path(corpus.index_store.uri, "pretrain/00003.parquet").unlink()
    indexed(again(corpus))
    assert corpus.is_indexed("00003")


def test_an_index_made_for_other_columns_is_not_taken(corpus: Corpus) -> None:
    other = again(corpus, ColumnsConfig(alt_text="number"))
    assert not other.is_indexed("00000")
    other.index("00000")  # now stands in the place of the first one's
    assert again(corpus).index("00000").num_rows == 3
    assert corpus.is_indexed("00000")


def test_a_part_carries_its_own_shards_and_asks_nothing(corpus: Corpus, asked: Counter[str]) -> None:
    corpus.total_rows()
    asked.clear()
    sent = pickle.dumps(corpus.part(["00002", "00004"]))
    assert b"00003" not in sent
    part = pickle.loads(sent)
    assert [(ref.shard, rows) for ref, rows in part.rows_by_shard()] == [("00002", 5), ("00004", 7)]
    assert not asked
    assert [s.key for s in part.read("00004", [6])] == ["006"]


def test_a_range_of_names_is_found_by_one_listing(corpus: Corpus, asked: Counter[str]) -> None:
    found = find_shards(f"{Path(corpus.shards[0].uri).parent}/{{00000..00004}}.tar", "pretrain")
    assert [ref.shard for ref in found] == [f"{i:05}" for i in range(5)]
    assert all(ref.stamp for ref in found)
    assert asked == {"list": 1}
