"""Counts over caption layers: statuses, reasons, flags, words; over a drawn part of the shards where there are many."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from vila2_ray.captions.words import words
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.layers import Layer
from vila2_ray.corpus.verdicts import Opinions, Verdicts
from vila2_ray.report.data import LayerFacts, Words
from vila2_ray.schema import Status

MAX_SHARDS = 64
"""Shards that are counted; enough for shares to within a percent, and seconds of reading."""
MAX_TEXTS_PER_SHARD = 2000
"""Captions of a shard whose words are counted."""

Key = tuple[str, str, int]
"""source, shard, row."""


@dataclass
class Tally:
    """Counts by layer, and the rows that samples can be drawn from."""

    layers: list[LayerFacts] = field(default_factory=list)
    alt_words: Words | None = None
    rows: dict[tuple[str, str], int] = field(default_factory=dict)
    """(source, shard) → number of rows, for the shards that were read."""
    flagged: set[Key] = field(default_factory=set)
    failed: set[Key] = field(default_factory=set)
    has_variants: bool = False

    @property
    def num_rows(self) -> int:
        return sum(self.rows.values())


def tally_layers(
    layers: Mapping[str, Layer], verdicts: Mapping[str, Verdicts | None], corpus: Corpus | None, seed: int
) -> Tally:
    """Count every layer over the same shards, at most MAX_SHARDS of them."""
    tally = Tally()
    held = {name: layer.shards() for name, layer in layers.items()}
    known = {(ref.source, ref.shard) for ref in corpus.shards} if corpus is not None else set().union(*held.values())
    shards = sorted(known)
    if len(shards) > MAX_SHARDS:
        shards = sorted(random.Random(f"report:{seed}").sample(shards, MAX_SHARDS))
    for source, shard in shards:
        tally.rows[source, shard] = corpus.num_rows(shard) if corpus is not None else 0
    for name, layer in layers.items():
        present = set(held[name])
        read = [pair for pair in shards if pair in present]
        tally.layers.append(_count(name, layer, verdicts[name], read, len(present), tally))
    if corpus is not None:
        tally.alt_words = _alt_words(corpus, shards)
    return tally


def _count(
    name: str, layer: Layer, verdicts: Verdicts | None, shards: Sequence[tuple[str, str]], num_shards: int, tally: Tally
) -> LayerFacts:
    statuses: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    flags: Counter[str] = Counter()
    lengths: list[int] = []
    num_flagged = 0
    for source, shard in shards:
        table = layer.read(source, shard, ["row", "variant", "status", "error", "text"])
        statuses.update(table["status"].to_pylist())
        _dead_letters(table, source, shard, errors, tally)
        tally.rows[source, shard] = max(tally.rows[source, shard], 1 + max(table["row"].to_pylist(), default=-1))
        tally.has_variants |= any(table["variant"].to_pylist())
        told = verdicts.opinions(source, shard) if verdicts is not None else Opinions({}, {})
        texts = zip(*(table[name].to_pylist() for name in ("row", "variant", "text")), strict=True)
        said = [told.edits.get((row, variant)) or text for row, variant, text in texts if text is not None]
        lengths += [len(words(text)) for text in said[:MAX_TEXTS_PER_SHARD]]
        num_flagged += len(told.flags)
        flags.update(flag for found in told.flags.values() for flag in found)
        tally.flagged |= {(source, shard, row) for row, _ in told.flags}
    return LayerFacts(
        name=name,
        num_captioned=statuses[Status.CAPTIONED.value],
        num_not_selected=statuses[Status.NOT_SELECTED.value],
        errors=dict(errors),
        flags=dict(flags) if verdicts is not None else None,
        num_flagged=num_flagged,
        words=spread(lengths),
        num_shards=num_shards,
        num_shards_read=len(shards),
        provenance=_constant(layer, shards),
    )


def _constant(layer: Layer, shards: Sequence[tuple[str, str]]) -> dict[str, str]:
    """What the first and the last file say alike of how they were made; digests of single files fall out."""
    if not shards:
        return {}
    first, last = (layer.metadata(*pair) for pair in (shards[0], shards[-1]))
    return {name: value for name, value in first.items() if value and (len(shards) == 1 or last.get(name) == value)}


def _dead_letters(table: pa.Table, source: str, shard: str, errors: Counter[str], tally: Tally) -> None:
    columns = (table[name].to_pylist() for name in ("row", "status", "error"))
    for row, status, error in zip(*columns, strict=True):
        if status == Status.FAILED.value:
            errors[error or "unknown"] += 1
            tally.failed.add((source, shard, row))


def _alt_words(corpus: Corpus, shards: Sequence[tuple[str, str]]) -> Words | None:
    """Words per alt text, over samples that have one; read without their images."""
    lengths: list[int] = []
    for _, shard in shards:
        rows = range(min(corpus.num_rows(shard), MAX_TEXTS_PER_SHARD))
        lengths += [len(words(s.alt_text)) for s in corpus.read(shard, rows, images=False) if s.alt_text]
    return spread(lengths)


def spread(lengths: Sequence[int]) -> Words | None:
    """Mean and middle 80 %; None of nothing."""
    if not lengths:
        return None
    low, high = np.percentile(lengths, [10, 90])
    return Words(float(np.mean(lengths)), float(low), float(high))
