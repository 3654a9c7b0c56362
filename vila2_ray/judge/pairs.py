"""Pairs of captions of one image, drawn from layers by hashes: the same draw gives the same pairs anywhere.

1. Shards are read in the order of their hashes, 64 at a time, until there are enough images that every layer has a
   caption of. A corpus of no more shards is read whole, so that each of its images may be drawn; of a larger one 64 to
   256 are read, more only where a couple of layers still lacks images.
2. Of these images those with the lowest hashes are drawn, the same for every couple of layers; a couple that they do
   not fill goes on with images that not all layers have.
3. Couples alternate, and images are in another order for each, so that one seldom comes twice in a row.

What is compared is what would be trained on: a caption as the filters cut it, the alt text with its spaces as fusion
has them. A loop at a caption's end that no model learns from is no reason to vote against it. Where both say the same
there is nothing to ask: such images are counted, and are ties.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from vila2_ray.captions.filters import Flag, training_text
from vila2_ray.captions.words import has_content
from vila2_ray.config import FiltersConfig
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.layers import Layer
from vila2_ray.corpus.screening import Screening
from vila2_ray.corpus.shards import ShardRef
from vila2_ray.corpus.verdicts import Verdicts
from vila2_ray.judge.study import Pair, Shown
from vila2_ray.schema import Status

Couple = tuple[str, str]
"""Names of two layers, the one that stands first in the study's pairs first."""
Variant = Literal["first", "drawn"]
SHARDS_AT_ONCE = 64
"""Read before it is looked whether there are enough images."""
MAX_SHARDS_FOR_SHARED = 256
"""After so many it is enough that each couple has images, be they others than those of the next couple."""
_THREADS = 16
_Key = tuple[str, str, int]  # source, shard, row
_Candidates = dict[_Key, dict[str, int]]  # layer → variant


@dataclass(frozen=True)
class Side:
    """A layer to draw from; the alt text has neither captions nor verdicts."""

    name: str
    layer: Layer | None = None
    verdicts: Verdicts | None = None
    """Captions with a flag are not drawn, but for those that another was picked before; None: all may be."""


@dataclass(frozen=True)
class Draw:
    """What is to be drawn."""

    couples: tuple[Couple, ...]
    num_samples: int
    """Images for each couple, those on which both say the same included."""
    seed: int = 0
    variant: Variant = "first"
    """Of a sample's several captions the first one that may be drawn, or one by a hash."""
    filters: FiltersConfig = field(default_factory=FiltersConfig)


@dataclass(frozen=True)
class Drawn:
    """Pairs in the order in which they are to be asked, and what need not be asked."""

    pairs: list[Pair]
    equal: dict[str, int]
    """`first:second` → images on which both layers say the same."""


def all_couples(layers: Sequence[str]) -> tuple[Couple, ...]:
    """Every two of them, in the order given."""
    return tuple(itertools.combinations(layers, 2))


def couple_name(couple: Couple) -> str:
    return ":".join(couple)


def swapped(seed: int, pair_id: str, rater: str) -> bool:
    """Whether this rater sees the second caption on the left; by a hash, so for about half of the pairs."""
    return int(_hash(seed, "side", pair_id, rater)[:2], 16) % 2 == 1


def draw_pairs(corpus: Corpus, sides: Sequence[Side], draw: Draw, screening: Screening | None = None) -> Drawn:
    """Draw pairs of these layers' captions; fewer than wished for where the corpus has no more.

    Samples that `screening` leaves out are shown to nobody. Raises CorpusError or StorageError for what cannot be read.
    """
    reader = _Reader(corpus, {side.name: side for side in sides}, draw, screening)
    candidates = _candidates(reader, draw)
    found: dict[Couple, list[Pair]] = {couple: [] for couple in draw.couples}
    for some in _growing(list(candidates), draw.num_samples):
        short = [couple for couple, pairs in found.items() if len(pairs) < draw.num_samples]
        wanted = [key for key in some if any(candidates[key].keys() >= set(couple) for couple in short)]
        texts = reader.texts({key: candidates[key] for key in wanted})
        for key, couple in itertools.product(wanted, short):
            sample_id, shown = texts[key]
            if len(found[couple]) < draw.num_samples and shown.keys() >= set(couple):
                found[couple].append(_pair(key, sample_id, shown[couple[0]], shown[couple[1]]))
        if all(len(pairs) >= draw.num_samples for pairs in found.values()):
            break
    equal = {couple_name(c): sum(pair.first.text == pair.second.text for pair in ps) for c, ps in found.items()}
    asked = {couple: [pair for pair in ps if pair.first.text != pair.second.text] for couple, ps in found.items()}
    return Drawn(_mixed(asked, draw.seed), equal)


def _candidates(reader: _Reader, draw: Draw) -> _Candidates:
    """Images that at least one couple can be drawn from, with each layer's variant, in the order of drawing."""
    found: _Candidates = {}
    refs = sorted(reader.corpus.shards, key=lambda ref: _hash(draw.seed, "shard", ref.source, ref.shard))
    enough = draw.num_samples + draw.num_samples // 10 + 1  # a text may turn out to say nothing
    counts: Counter[Couple | None] = Counter()
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(refs), SHARDS_AT_ONCE):
            for some in pool.map(reader.eligible, refs[start : start + SHARDS_AT_ONCE]):
                for key, variants in some.items():
                    couples = [couple for couple in draw.couples if variants.keys() >= set(couple)]
                    counts.update(couples)
                    counts[None] += len(variants) == len(reader.sides)
                    if couples:
                        found[key] = variants
                if len(found) > 16 * enough * len(draw.couples):
                    found = _foremost(found, reader, draw, 2 * enough)
            is_shared = counts[None] >= enough or start + SHARDS_AT_ONCE >= MAX_SHARDS_FOR_SHARED
            if is_shared and all(counts[couple] >= enough for couple in draw.couples):
                break
    return _foremost(found, reader, draw, len(found))


def _foremost(found: _Candidates, reader: _Reader, draw: Draw, number: int) -> _Candidates:
    """So many of each couple, images that all layers have first, then by hash; in this order."""
    order = sorted(found, key=lambda key: (len(found[key]) < len(reader.sides), _hash(draw.seed, "image", *key)))
    left = dict.fromkeys(draw.couples, number)
    kept: _Candidates = {}
    for key in order:
        for couple in draw.couples:
            if left[couple] and found[key].keys() >= set(couple):
                left[couple] -= 1
                kept[key] = found[key]
    return kept


def _growing(order: Sequence[_Key], size: int) -> Iterator[Sequence[_Key]]:
    """All of it in pieces, each twice as long as the one before: shards are read again for each."""
    start = 0
    while start < len(order):
        yield order[start : start + size]
        start, size = start + size, 2 * size


def _mixed(pairs: dict[Couple, list[Pair]], seed: int) -> list[Pair]:
    placed: list[tuple[float, int, Pair]] = []
    for number, of_couple in enumerate(pairs.values()):
        order = sorted(of_couple, key=lambda pair: _hash(seed, "order", pair.pair_id))
        placed += [((place + 0.5) / len(order), number, pair) for place, pair in enumerate(order)]
    return [pair for *_, pair in sorted(placed, key=lambda found: found[:2])]


def _pair(key: _Key, sample_id: str, first: Shown, second: Shown) -> Pair:
    said = [part for shown in (first, second) for part in (shown.layer, shown.variant, shown.text)]
    pair_id = "f" + _hash(*key, *said)[:15]  # a letter first: spreadsheets take 12e3 for a number
    return Pair(pair_id, *key, sample_id, first, second)


def _hash(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(frozen=True)
class _Reader:
    """Reads shards of all layers; may be asked by several threads."""

    corpus: Corpus
    sides: dict[str, Side]
    draw: Draw
    screening: Screening | None

    def eligible(self, ref: ShardRef) -> _Candidates:
        """The shard's images that any layer has something to show of."""
        out = self.screening.flags(ref.source, ref.shard) if self.screening is not None else {}
        found: dict[int, dict[str, int]] = {}
        for side in self.sides.values():
            for row, variant in self._variants(side, ref).items():
                if row not in out:
                    found.setdefault(row, {})[side.name] = variant
        return {(ref.source, ref.shard, row): variants for row, variants in found.items()}

    def texts(self, keys: _Candidates) -> dict[_Key, tuple[str, dict[str, Shown]]]:
        """Key → sample id, and layer → what is shown; without those layers whose text says nothing."""
        by_shard: dict[tuple[str, str], dict[int, dict[str, int]]] = {}
        for (source, shard, row), variants in keys.items():
            by_shard.setdefault((source, shard), {})[row] = variants
        with ThreadPoolExecutor(_THREADS) as pool:
            found: dict[_Key, tuple[str, dict[str, Shown]]] = {}
            for some in pool.map(self._shown, by_shard, by_shard.values()):
                found.update(some)
        return found

    def _variants(self, side: Side, ref: ShardRef) -> dict[int, int]:
        """Row → the variant that may be drawn."""
        if side.layer is None:
            lengths = self.corpus.index(ref)["alt_text_chars"].to_pylist()
            return {row: 0 for row, length in enumerate(lengths) if length}
        if not side.layer.has(ref.source, ref.shard):
            return {}
        flags = side.verdicts.flags(ref.source, ref.shard) if side.verdicts is not None else {}
        # nothing is wrong with what was not picked: without it, layers would be compared where they had won already
        passed = {key for key, found in flags.items() if found == [Flag.NOT_PICKED.value]}
        table = side.layer.read(ref.source, ref.shard, ["row", "variant", "status"])
        table = table.filter(pc.equal(table["status"], Status.CAPTIONED.value))
        kept: dict[int, list[int]] = {}
        for row, variant in zip(table["row"].to_pylist(), table["variant"].to_pylist(), strict=True):
            if (row, variant) not in flags or (row, variant) in passed:
                kept.setdefault(row, []).append(variant)
        for row, variants in kept.items():
            kept[row] = [variant for variant in variants if (row, variant) not in passed] or variants
        return {row: self._choose(side.name, (ref.source, ref.shard, row), some) for row, some in kept.items()}

    def _choose(self, layer: str, key: _Key, variants: Sequence[int]) -> int:
        if self.draw.variant == "first" or len(variants) == 1:
            return variants[0]
        return min(variants, key=lambda variant: _hash(self.draw.seed, "variant", layer, *key, variant))

    def _shown(
        self, place: tuple[str, str], rows: dict[int, dict[str, int]]
    ) -> dict[_Key, tuple[str, dict[str, Shown]]]:
        source, shard = place
        ids: dict[int, str] = {}
        shown: dict[int, dict[str, Shown]] = {row: {} for row in rows}
        for side in self.sides.values():
            wanted = {row: variants[side.name] for row, variants in rows.items() if side.name in variants}
            for row, sample_id, text in self._said(side, source, shard, wanted):
                ids[row] = sample_id
                if has_content(text):
                    shown[row][side.name] = Shown(side.name, wanted[row], text)
        return {(source, shard, row): (ids[row], shown[row]) for row in rows}

    def _said(self, side: Side, source: str, shard: str, wanted: dict[int, int]) -> Iterator[tuple[int, str, str]]:
        """Row, sample id and text; of the alt text as `fuse` trains on it."""
        if side.layer is None:
            for sample in self.corpus.read(shard, sorted(wanted), images=False):
                yield sample.row, sample.sample_id, " ".join(sample.alt_text.split())
            return
        table = side.layer.read(source, shard, ["row", "sample_id", "variant", "text"])
        table = table.filter(pc.is_in(table["row"], pa.array(list(wanted), pa.int32())))
        edits = side.verdicts.opinions(source, shard).edits if side.verdicts is not None else {}
        for entry in table.to_pylist():
            if entry["variant"] == wanted[entry["row"]]:
                edit = edits.get((entry["row"], entry["variant"]))
                yield entry["row"], entry["sample_id"], training_text(entry["text"], self.draw.filters, edit).strip()
