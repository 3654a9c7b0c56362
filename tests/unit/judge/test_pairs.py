"""Pairs are drawn by hashes from layers: the same ones again, of the same images for every couple of layers."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.unit.campaign.layers import SOURCE, write_corpus, write_layer
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.layers import Layer
from vila2_ray.corpus.verdicts import Verdicts
from vila2_ray.judge import pairs as drawing
from vila2_ray.judge.pairs import Draw, Drawn, Side, all_couples, draw_pairs, swapped
from vila2_ray.judge.study import Pair
from vila2_ray.schema import VERDICT
from vila2_ray.storage import Store

LAYERS = ("alt_text", "round-1", "round-2")


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return write_corpus(tmp_path, [6, 5, 7])


def layer(folder: Path, corpus: Corpus, name: str, variants: int = 1, change: Any = None) -> Layer:
    def said(shard: str, row: int, variant: int) -> dict[str, Any]:
        usual = {"text": f"{name} says {variant} of {shard} {row}."}
        return {**usual, **(change(shard, row, variant) if change else {})}

    return write_layer(Store(folder / name), corpus, variants, said)


def flagged(folder: Path, corpus: Corpus, layer: Layer, flags: dict[tuple[str, int, int], list[str]]) -> Verdicts:
    verdicts = Verdicts(Store(folder))
    for ref in corpus.shards:
        rows = layer.read(SOURCE, ref.shard, ["source", "shard", "row", "sample_id", "variant"]).to_pylist()
        judged = [{**row, "flags": flags.get((ref.shard, row["row"], row["variant"]), [])} for row in rows]
        verdicts.write(SOURCE, ref.shard, pa.Table.from_pylist(judged, VERDICT))
    return verdicts


def three(folder: Path, corpus: Corpus) -> list[Side]:
    return [Side("alt_text"), *(Side(name, layer(folder, corpus, name)) for name in LAYERS[1:])]


def drawn(corpus: Corpus, sides: list[Side], number: int, **more: Any) -> Drawn:
    return draw_pairs(corpus, sides, Draw(all_couples([side.name for side in sides]), number, **more))


def couple(pair: Pair) -> tuple[str, str]:
    return pair.first.layer, pair.second.layer


def image(pair: Pair) -> tuple[str, int]:
    return pair.shard, pair.row


def test_every_couple_is_asked_of_the_same_images_in_turn(tmp_path: Path, corpus: Corpus) -> None:
    found = drawn(corpus, three(tmp_path, corpus), 5)
    assert [couple(pair) for pair in found.pairs] == 5 * list(all_couples(LAYERS))
    images = {c: {image(pair) for pair in found.pairs if couple(pair) == c} for c in all_couples(LAYERS)}
    assert len(set(map(frozenset, images.values()))) == 1
    assert len(images["alt_text", "round-1"]) == 5
    assert len({pair.pair_id for pair in found.pairs}) == 15
    pair = next(pair for pair in found.pairs if couple(pair) == ("alt_text", "round-2"))
    assert pair.first.text == f"alt words {pair.row}"
    assert pair.second.text == f"round-2 says 0 of {pair.shard} {pair.row}."
    assert pair.sample_id == f"{pair.shard}/{pair.row:03}"
    assert found.equal == {"alt_text:round-1": 0, "alt_text:round-2": 0, "round-1:round-2": 0}


def test_the_same_draw_gives_the_same_pairs_and_another_seed_others(tmp_path: Path, corpus: Corpus) -> None:
    sides = three(tmp_path, corpus)
    assert drawn(corpus, sides, 5) == drawn(corpus, sides, 5)
    assert {image(p) for p in drawn(corpus, sides, 5, seed=1).pairs} != {
        image(p) for p in drawn(corpus, sides, 5).pairs
    }
    few, many = ({image(p) for p in drawn(corpus, sides, n).pairs} for n in (3, 9))
    assert few < many, "a larger study goes on where the smaller one ended"


def test_a_corpus_gives_what_it_has(tmp_path: Path, corpus: Corpus) -> None:
    assert len(drawn(corpus, three(tmp_path, corpus), 1000).pairs) == 3 * 18


def test_equal_texts_are_counted_and_not_asked(tmp_path: Path, corpus: Corpus) -> None:
    same = layer(
        tmp_path, corpus, "round-2", change=lambda s, row, v: {"text": f"round-1 says 0 of {s} {row}."} if row else {}
    )
    found = drawn(corpus, [Side("round-1", layer(tmp_path, corpus, "round-1")), Side("round-2", same)], 18)
    assert found.equal == {"round-1:round-2": 15}
    assert {pair.row for pair in found.pairs} == {0}
    assert len(found.pairs) == 3


def test_only_what_the_filters_keep_and_what_was_captioned(tmp_path: Path, corpus: Corpus) -> None:
    def change(shard: str, row: int, variant: int) -> dict[str, Any]:
        return {"status": "failed", "text": None, "error": "engine_died"} if row == 1 else {}

    first = layer(tmp_path, corpus, "round-1", 2, change)
    flags = {(s.shard, row, 0): ["too_short"] for s in corpus.shards for row in (2, 3)}
    flags |= {(s.shard, 3, 1): ["too_long", "not_picked"] for s in corpus.shards}
    flags |= {(s.shard, 4, 0): ["not_picked"] for s in corpus.shards}  # the other one was picked
    flags |= {(s.shard, 5, variant): ["not_picked"] for s in corpus.shards for variant in (0, 1)}  # the alt text was
    verdicts = flagged(tmp_path / "verdicts", corpus, first, flags)
    found = drawn(corpus, [Side("alt_text"), Side("round-1", first, verdicts)], 100)
    variants = {pair.row: pair.second.variant for pair in found.pairs}
    assert variants == {0: 0, 2: 1, 4: 1, 5: 0, 6: 0}
    everything = drawn(corpus, [Side("alt_text"), Side("round-1", first)], 100)
    assert {pair.row: pair.second.variant for pair in everything.pairs} == dict.fromkeys((0, 2, 3, 4, 5, 6), 0)


def test_a_variant_by_a_hash(tmp_path: Path, corpus: Corpus) -> None:
    sides = [Side("alt_text"), Side("round-1", layer(tmp_path, corpus, "round-1", 3))]
    found = drawn(corpus, sides, 18, variant="drawn")
    assert set(Counter(pair.second.variant for pair in found.pairs)) == {0, 1, 2}
    assert all(f"says {pair.second.variant} of" in pair.second.text for pair in found.pairs)


def test_where_not_all_layers_have_an_image_the_others_go_on_without_it(tmp_path: Path, corpus: Corpus) -> None:
    sparse = layer(
        tmp_path,
        corpus,
        "round-2",
        change=lambda s, row, v: {} if row < 2 else {"status": "not_selected", "text": None},
    )
    sides = [Side("alt_text"), Side("round-1", layer(tmp_path, corpus, "round-1")), Side("round-2", sparse)]
    found = drawn(corpus, sides, 8)
    count = Counter(couple(pair) for pair in found.pairs)
    assert count == {("alt_text", "round-1"): 8, ("alt_text", "round-2"): 6, ("round-1", "round-2"): 6}
    images = {c: {image(pair) for pair in found.pairs if couple(pair) == c} for c in count}
    assert images["round-1", "round-2"] == images["alt_text", "round-2"] < images["alt_text", "round-1"]
    places = [number for number, pair in enumerate(found.pairs) if couple(pair) == ("alt_text", "round-2")]
    assert max(b - a for a, b in itertools.pairwise(places)) <= 5, "a smaller couple is spread over all"


def test_what_is_shown_is_what_is_trained_on(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path, [2], alt_text="  two\n words ")
    looping = layer(tmp_path, corpus, "round-1", change=lambda s, row, v: {"text": "A cat. It sleeps. A cat. A cat."})
    pair = drawn(corpus, [Side("alt_text"), Side("round-1", looping)], 1).pairs[0]
    assert (pair.first.text, pair.second.text) == ("two words", "A cat. It sleeps.")


def test_texts_that_say_nothing_are_no_side_of_a_pair(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path, [4, 4], alt_text="...")
    assert drawn(corpus, three(tmp_path, corpus), 3).pairs != []
    assert {couple(pair) for pair in drawn(corpus, three(tmp_path, corpus), 3).pairs} == {("round-1", "round-2")}


def test_who_is_taken_down_is_shown_to_nobody(tmp_path: Path, corpus: Corpus) -> None:
    class Screened:
        def flags(self, source: str, shard: str) -> dict[int, list[str]]:
            return {0: ["takedown"], 4: ["small"]}

    draw = Draw(all_couples(LAYERS), 100)
    found = draw_pairs(corpus, three(tmp_path, corpus), draw, Screened())  # type: ignore[arg-type]
    assert {pair.row for pair in found.pairs} == {1, 2, 3, 5, 6}


def test_of_a_large_corpus_a_part_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = write_corpus(tmp_path, [3] * 12)
    sides = [Side("alt_text"), Side("round-1", layer(tmp_path, corpus, "round-1"))]
    monkeypatch.setattr(drawing, "SHARDS_AT_ONCE", 2)
    read: set[str] = set()
    usual = Layer.read

    def noted(self: Layer, source: str, shard: str, columns: list[str] | None = None) -> pa.Table:
        read.add(shard)
        return usual(self, source, shard, columns)

    monkeypatch.setattr(Layer, "read", noted)
    assert len(drawn(corpus, sides, 5).pairs) == 5
    assert len(read) == 2
    assert len(drawn(corpus, sides, 12).pairs) == 12
    assert len(read) == 6
    shards = {pair.shard for pair in drawn(corpus, sides, 5, seed=3).pairs}
    assert shards != {pair.shard for pair in drawn(corpus, sides, 5).pairs}, "which ones, the seed says"


def test_sides_are_drawn_for_each_rater() -> None:
    ids = [f"f{number:015x}" for number in range(400)]
    ann, bob = ([swapped(0, pair_id, rater) for pair_id in ids] for rater in ("ann", "bob"))
    assert 160 < sum(ann) < 240
    assert 160 < sum(a != b for a, b in zip(ann, bob, strict=True)) < 240
    assert ann == [swapped(0, pair_id, "ann") for pair_id in ids]
    assert ann != [swapped(1, pair_id, "ann") for pair_id in ids]
