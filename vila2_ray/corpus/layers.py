"""Caption layers, and the finished row ranges (parts) that a shard's layer file is put together from."""

from __future__ import annotations

import re
from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from vila2_ray.corpus.shardfiles import ShardFiles, check_rows, conform, order_of
from vila2_ray.errors import CorpusError, StorageError
from vila2_ray.schema import CAPTION
from vila2_ray.storage import Store

_PART = re.compile(r"(?P<source>[^/]+)/(?P<shard>.+)/(?P<start>\d+)-(?P<stop>\d+)\.parquet")


class Layer(ShardFiles):
    """What one recaptioning wrote (schema CAPTION): a file per shard, rows in shard order."""

    schema = CAPTION


class Parts:
    """Finished row ranges of shards not yet whole: `<source>/<shard>/<start>-<stop>.parquet`, written idempotently."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def path(self, source: str, shard: str, start: int, stop: int) -> str:
        return f"{source}/{shard}/{start:09}-{stop:09}.parquet"

    def write(self, source: str, shard: str, start: int, stop: int, table: pa.Table) -> None:
        """Write rows [start, stop). Raises CorpusError when `table` holds others, lacks one, or is out of order."""
        name = self.path(source, shard, start, stop)
        table = conform(table, CAPTION, self.store.path(name))
        check_rows(table, source, shard, self.store.path(name))
        if pc.unique(table["row"]).to_pylist() != list(range(start, stop)):
            raise CorpusError(self.store.path(name), f"does not hold exactly the rows {start} to {stop - 1}")
        self.store.write_table(name, table)

    def read(self, source: str, shard: str, start: int, stop: int, columns: list[str] | None = None) -> pa.Table:
        """The part with rows [start, stop)."""
        return self.store.read_table(self.path(source, shard, start, stop), columns)

    def ranges(self, source: str | None = None) -> dict[tuple[str, str], list[tuple[int, int]]]:
        """(source, shard) → finished ranges in order, from one listing."""
        found: dict[tuple[str, str], list[tuple[int, int]]] = {}
        for name in self.store.list(prefix=source or ""):
            if part := _PART.fullmatch(name):
                key = part["source"], part["shard"]
                found.setdefault(key, []).append((int(part["start"]), int(part["stop"])))
        return {key: sorted(ranges) for key, ranges in found.items()}

    def finish(
        self, layer: Layer, source: str, shard: str, num_rows: int, num_variants: int, metadata: dict[str, str]
    ) -> dict[str, int]:
        """Put the parts together to the layer's file of the shard, then delete them; captions by status.

        Idempotent: a file that is already there stays as it is. Raises CorpusError, and writes nothing, unless the
        parts hold every row of [0, num_rows) with variants 0 … num_variants − 1.
        """
        if not layer.has(source, shard):
            try:
                table = self._joined(source, shard, num_rows, num_variants)
            except (CorpusError, StorageError):
                if not layer.has(source, shard):  # else another task was faster, and is deleting the parts
                    raise
            else:
                layer.write(source, shard, table, metadata)
        status = layer.read(source, shard, ["status"])["status"]
        self.store.delete_tree(f"{source}/{shard}")
        return dict(Counter(status.to_pylist()))

    def _joined(self, source: str, shard: str, num_rows: int, num_variants: int) -> pa.Table:
        where = self.store.path(f"{source}/{shard}")
        done = self.ranges(f"{source}/{shard}").get((source, shard), [])
        tables = []
        for start, stop, begin, end in cover(num_rows, done, where):
            table = self.read(source, shard, start, stop)
            if (begin, end) != (start, stop):
                row = table["row"]
                table = table.filter(pc.and_(pc.greater_equal(row, begin), pc.less(row, end)))
            tables.append(table.cast(CAPTION))
        joined = pa.concat_tables(tables) if tables else CAPTION.empty_table()
        if order_of(joined) != [(row, variant) for row in range(num_rows) for variant in range(num_variants)]:
            problem = f"parts do not hold {num_rows} rows × {num_variants} variants, each once and in order"
            raise CorpusError(where, problem, "Delete this folder of parts and run again; only this shard is redone")
        return joined


def cover(num_rows: int, done: list[tuple[int, int]], where: str) -> list[tuple[int, int, int, int]]:
    """Which part gives which rows: (start, stop) of the part, (begin, end) of the rows taken; every row once.

    Ranges may overlap when their size was changed between two runs; of two, the one that reaches further is taken.
    Raises CorpusError naming the first row that no part holds.
    """
    taken, at = [], 0
    while at < num_rows:
        candidates = [(stop, start) for start, stop in done if start <= at < stop]
        if not candidates:
            raise CorpusError(
                where, f"no part holds row {at}", "Run the same command again to caption the missing rows"
            )
        stop, start = max(candidates)
        taken.append((start, stop, at, min(stop, num_rows)))
        at = stop
    return taken


def missing_ranges(num_rows: int, done: list[tuple[int, int]], range_rows: int) -> list[tuple[int, int]]:
    """Ranges of [0, num_rows) that no finished one holds, cut at multiples of `range_rows`, in order."""
    missing, at = [], 0
    for start, stop in [*sorted(done), (num_rows, num_rows)]:
        while at < min(start, num_rows):
            end = min(start, (at // range_rows + 1) * range_rows, num_rows)
            missing.append((at, end))
            at = end
        at = max(at, stop)
    return missing
