"""Dead letters, the failed rows of a layer: counted shard by shard, and put back so that they are captioned again.

Putting back is resuming: the rows that stay are written as parts, the failed ones are in no part, so the ranges that
are missing are exactly theirs. Every step can be done twice, and what is deleted has its replacement written before.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from vila2_ray.corpus.layers import Layer, Parts
from vila2_ray.schema import CAPTION, Status

_FAILED = pa.schema([CAPTION.field(name) for name in ("row", "sample_id", "variant", "error", "error_detail")])


@dataclass(frozen=True)
class DeadLetter:
    """One failed row, for people."""

    sample_id: str
    variant: int
    detail: str


@dataclass
class DeadLetters:
    """The failed rows of one layer with one reason."""

    layer: str
    reason: str
    num_rows: int = 0
    num_samples: int = 0
    examples: list[DeadLetter] = field(default_factory=list)


@dataclass(frozen=True)
class LayerPlace:
    """A layer, whole or not, with the parts of its shards that are not."""

    name: str
    layer: Layer
    parts: Parts
    is_sealed: bool
    """A stage marker stands for it: it is never written again."""

    def shards(self) -> list[tuple[str, str]]:
        """(source, shard) of everything that has been captioned at least in part, in order."""
        return sorted({*self.layer.shards(), *self.parts.ranges()})


def count_dead(place: LayerPlace, reason: str | None = None, num_examples: int = 3) -> list[DeadLetters]:
    """By reason, the most frequent first. Memory is that of some shards' failed rows, however many shards there are."""
    ranges, whole = place.parts.ranges(), set(place.layer.shards())
    found: dict[str, DeadLetters] = {}

    def failed(key: tuple[str, str]) -> pa.Table:
        tables = [_failed(table) for _, table in _tables(place, key, key in whole, ranges.get(key, []))]
        return pa.concat_tables(tables) if tables else _FAILED.empty_table()

    with ThreadPoolExecutor(16) as pool:
        for table in pool.map(failed, place.shards()):
            _add(found, place.name, table, num_examples)
    chosen = [dead for dead in found.values() if reason in (None, dead.reason)]
    return sorted(chosen, key=lambda dead: (-dead.num_rows, dead.reason))


def put_back(place: LayerPlace, reasons: Sequence[str]) -> int:
    """Take the samples that failed for one of `reasons` out of a layer that is not sealed; how many they are.

    A sample with several variants is taken out whole. Nobody else may write the layer meanwhile.
    """
    assert not place.is_sealed, f"{place.name} is sealed"
    ranges, whole = place.parts.ranges(), set(place.layer.shards())

    def one(key: tuple[str, str]) -> int:
        rows: set[int] = set()
        if key in whole:
            place.parts.store.delete_tree("/".join(key))  # left over from finishing; they hold the failed rows, too
        for (start, stop), table in list(_tables(place, key, key in whole, ranges.get(key, []))):
            failed = failed_rows(table, reasons)
            if not failed:
                continue
            rows |= failed
            write_parts(place.parts, table, start, stop, failed)
            if key in whole:
                place.layer.store.delete(place.layer.path(*key))
            else:
                place.parts.store.delete(place.parts.path(*key, start, stop))
        return len(rows)

    with ThreadPoolExecutor(16) as pool:
        return sum(pool.map(one, place.shards()))


def failed_rows(table: pa.Table, reasons: Sequence[str]) -> set[int]:
    """Rows of which at least one variant failed for one of `reasons`."""
    is_failed = pc.equal(table["status"], Status.FAILED.value)
    wanted = pc.and_(is_failed, pc.is_in(table["error"], pa.array(list(reasons), pa.string())))
    return set(table.filter(wanted)["row"].to_pylist())


def write_parts(parts: Parts, table: pa.Table, start: int, stop: int, without: set[int]) -> None:
    """Write rows [start, stop) of a shard as parts that leave out the rows `without`."""
    row = table["row"]
    for begin, end in kept_ranges(start, stop, without):
        piece = table.filter(pc.and_(pc.greater_equal(row, begin), pc.less(row, end))).cast(CAPTION)
        parts.write(piece["source"][0].as_py(), piece["shard"][0].as_py(), begin, end, piece)


def kept_ranges(start: int, stop: int, without: Iterable[int]) -> list[tuple[int, int]]:
    """[start, stop) without single rows, as ranges in order."""
    ranges, at = [], start
    for row in [*sorted(without), stop]:
        if at < row:
            ranges.append((at, row))
        at = row + 1
    return ranges


def _tables(
    place: LayerPlace, key: tuple[str, str], is_whole: bool, ranges: list[tuple[int, int]]
) -> Iterator[tuple[tuple[int, int], pa.Table]]:
    """The rows that a shard has, by range: the layer's file where there is one, else its parts."""
    if is_whole:
        table = place.layer.read(*key)
        rows = table["row"].to_pylist()
        yield (0, rows[-1] + 1 if rows else 0), table
        return
    for start, stop in ranges:
        yield (start, stop), place.parts.read(*key, start, stop)


def _failed(table: pa.Table) -> pa.Table:
    return table.filter(pc.equal(table["status"], Status.FAILED.value)).select(_FAILED.names).cast(_FAILED)


def _add(found: dict[str, DeadLetters], layer: str, table: pa.Table, num_examples: int) -> None:
    samples: defaultdict[str, set[int]] = defaultdict(set)
    counts: Counter[str] = Counter()
    seen: set[tuple[int, int]] = set()  # parts overlap where their size was changed between two runs
    for row in table.to_pylist():
        if (row["row"], row["variant"]) in seen:
            continue
        seen.add((row["row"], row["variant"]))
        reason = row["error"] or "unknown"
        dead = found.setdefault(reason, DeadLetters(layer, reason))
        counts[reason] += 1
        samples[reason].add(row["row"])
        if len(dead.examples) < num_examples:
            dead.examples.append(DeadLetter(row["sample_id"], row["variant"], row["error_detail"] or ""))
    for reason, number in counts.items():
        found[reason].num_rows += number
        found[reason].num_samples += len(samples[reason])
