"""Dead letters are counted by reason wherever they lie, and putting them back leaves exactly their rows missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from vila2_ray.corpus.deadletters import LayerPlace, count_dead, kept_ranges, put_back
from vila2_ray.corpus.layers import Layer, Parts, missing_ranges
from vila2_ray.storage import Store

Rows = Callable[..., pa.Table]


@pytest.fixture
def place(tmp_path: Path) -> LayerPlace:
    return LayerPlace("round-1", Layer(Store(tmp_path / "captions")), Parts(Store(tmp_path / "parts")), False)


@pytest.fixture
def rows(build: Any) -> Rows:
    """Rows of a shard; `errors`: row → reason."""

    def make(shard: str, numbers: range, errors: dict[int, str], variants: int = 1) -> pa.Table:
        return build.captions(
            shard,
            numbers,
            variants,
            status=lambda row, v: "failed" if row in errors and v == 0 else "captioned",
            error=lambda row, v: errors.get(row) if v == 0 else None,
            error_detail=lambda row, v: f"detail of {row}" if row in errors and v == 0 else None,
        )

    return make


def test_letters_are_counted_in_whole_shards_and_in_parts(place: LayerPlace, rows: Rows) -> None:
    errors = {1: "engine_died", 2: "engine_died", 4: "image_unreadable"}
    place.layer.write("pretrain", "00000", rows("00000", range(6), errors))
    place.parts.write("pretrain", "00001", 0, 3, rows("00001", range(3), {0: "engine_died"}))
    place.parts.write("pretrain", "00001", 2, 5, rows("00001", range(2, 5), {}))
    died, unreadable = count_dead(place, num_examples=2)
    assert (died.layer, died.reason, died.num_rows, died.num_samples) == ("round-1", "engine_died", 3, 3)
    assert [letter.sample_id for letter in died.examples] == ["00000/001", "00000/002"]
    assert died.examples[0].detail == "detail of 1"
    assert (unreadable.reason, unreadable.num_rows) == ("image_unreadable", 1)
    assert [dead.reason for dead in count_dead(place, "image_unreadable")] == ["image_unreadable"]
    assert count_dead(place, "no_image") == []


def test_rows_in_two_overlapping_parts_are_counted_once(place: LayerPlace, rows: Rows) -> None:
    errors = {2: "engine_died"}
    place.parts.write("pretrain", "0", 0, 3, rows("0", range(3), errors))
    place.parts.write("pretrain", "0", 2, 5, rows("0", range(2, 5), errors))
    assert [dead.num_rows for dead in count_dead(place)] == [1]


def test_variants_are_rows_of_one_sample(place: LayerPlace, build: Any) -> None:
    place.layer.write("pretrain", "0", build.captions("0", range(2), 3, status="failed", error="engine_error"))
    assert [(dead.num_rows, dead.num_samples) for dead in count_dead(place)] == [(6, 2)]


def test_nothing_is_there_yet(place: LayerPlace) -> None:
    assert count_dead(place) == []
    assert put_back(place, ["engine_died"]) == 0


def test_put_back_leaves_exactly_the_failed_rows_missing(place: LayerPlace, rows: Rows) -> None:
    errors = {0: "engine_died", 3: "engine_died", 4: "image_unreadable"}
    whole = rows("00000", range(6), errors, 2)
    place.layer.write("pretrain", "00000", whole)
    place.layer.write("pretrain", "00001", rows("00001", range(4), {}, 2))
    place.parts.write("pretrain", "00002", 0, 4, rows("00002", range(4), {3: "engine_died"}, 2))
    place.parts.write("pretrain", "00002", 4, 8, rows("00002", range(4, 8), {}, 2))
    assert put_back(place, ["engine_died"]) == 3
    assert place.layer.shards() == [("pretrain", "00001")]
    ranges = place.parts.ranges()
    assert missing_ranges(6, ranges["pretrain", "00000"], 256) == [(0, 1), (3, 4)]
    assert missing_ranges(8, ranges["pretrain", "00002"], 256) == [(3, 4)]
    assert [dead.reason for dead in count_dead(place)] == ["image_unreadable"]
    for row in (0, 3):  # what a resumed run does
        place.parts.write("pretrain", "00000", row, row + 1, rows("00000", range(row, row + 1), {}, 2))
    place.parts.finish(place.layer, "pretrain", "00000", 6, 2, {})
    again = place.layer.read("pretrain", "00000").to_pylist()
    before = whole.to_pylist()
    assert [a for a in again if a["row"] not in (0, 3)] == [b for b in before if b["row"] not in (0, 3)]
    assert put_back(place, ["engine_died"]) == 0, "what has been captioned by now is left alone"


def test_parts_left_over_from_finishing_do_not_hide_what_was_put_back(place: LayerPlace, rows: Rows) -> None:
    table = rows("0", range(4), {1: "engine_died"})
    place.layer.write("pretrain", "0", table)
    place.parts.write("pretrain", "0", 0, 4, table)
    put_back(place, ["engine_died"])
    assert missing_ranges(4, place.parts.ranges()["pretrain", "0"], 256) == [(1, 2)]


def test_a_retry_that_was_interrupted_is_done_again(
    place: LayerPlace, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.layer.write("pretrain", "0", rows("0", range(4), {1: "engine_died"}))
    with monkeypatch.context() as patched:
        patched.setattr(Store, "delete", lambda self, name: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            put_back(place, ["engine_died"])
    assert place.layer.has("pretrain", "0"), "nothing is gone before its replacement is there"
    assert put_back(place, ["engine_died"]) == 1
    assert missing_ranges(4, place.parts.ranges()["pretrain", "0"], 256) == [(1, 2)]


def test_a_shard_of_which_all_failed_begins_anew(place: LayerPlace, rows: Rows) -> None:
    place.layer.write("pretrain", "0", rows("0", range(3), dict.fromkeys(range(3), "engine_died")))
    assert put_back(place, ["engine_died"]) == 3
    assert place.shards() == []


def test_kept_ranges() -> None:
    assert kept_ranges(4, 10, []) == [(4, 10)]
    assert kept_ranges(4, 10, [4, 7, 9]) == [(5, 7), (8, 9)]
    assert kept_ranges(4, 5, [4]) == []
