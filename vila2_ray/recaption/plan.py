"""What is missing from a layer: listed once, subtracted, cut into row ranges and windows of them. No Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.layers import Layer, Parts, missing_ranges

_MOST_WINDOWS = 4000
"""Read tasks of a whole layer: each costs the driver some memory and time, however little it reads."""


@dataclass(frozen=True)
class RowRange:
    """Rows [start, stop) of a shard: the unit of work, and of what a crash can cost."""

    source: str
    shard: str
    start: int
    stop: int

    @property
    def num_rows(self) -> int:
        return self.stop - self.start

    def cut(self, num_pieces: int) -> list[RowRange]:
        """Up to `num_pieces` ranges of about the same size that make up this one."""
        size = -(-self.num_rows // num_pieces)
        starts = range(self.start, self.stop, size)
        return [RowRange(self.source, self.shard, start, min(start + size, self.stop)) for start in starts]


@dataclass
class Work:
    """What one look at the storage found."""

    ranges: list[RowRange]
    """Missing, in shard order."""
    unfinished: dict[tuple[str, str], int]
    """(source, shard) → rows, of every shard without a layer file; those with no missing range only need finishing."""
    rows_total: int
    rows_done: int

    @property
    def missing_by_shard(self) -> dict[tuple[str, str], int]:
        """(source, shard) → rows still to be captioned; 0 for a shard that only needs finishing."""
        missing = dict.fromkeys(self.unfinished, 0)
        for piece in self.ranges:
            missing[piece.source, piece.shard] += piece.num_rows
        return missing


def find_work(corpus: Corpus, layer: Layer, parts: Parts, range_rows: int) -> Work:
    """One listing of the layer, one of its parts, one read of the corpus's catalogue; the rest is subtraction."""
    finished, begun = set(layer.shards()), parts.ranges()
    ranges: list[RowRange] = []
    unfinished: dict[tuple[str, str], int] = {}
    total = missing = 0
    for ref, num_rows in corpus.rows_by_shard():
        key = ref.source, ref.shard
        total += num_rows
        if key in finished:
            continue
        unfinished[key] = num_rows
        for start, stop in missing_ranges(num_rows, begun.get(key, []), range_rows):
            ranges.append(RowRange(*key, start, stop))
            missing += stop - start
    return Work(ranges, unfinished, total, total - missing)


def windows(ranges: Sequence[RowRange], num_actors: int, most: int = 16) -> list[list[RowRange]]:
    """Consecutive ranges for one read task each: enough windows to keep all actors busy, few enough to be cheap.

    A window has up to `most` ranges, more only where there would be more windows than _MOST_WINDOWS.
    """
    size = max(1, min(most, len(ranges) // max(1, 4 * num_actors)), -(-len(ranges) // _MOST_WINDOWS))
    return [list(ranges[at : at + size]) for at in range(0, len(ranges), size)]
