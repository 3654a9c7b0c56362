"""What filters, judges or people think of a layer's captions: facts stay, opinions can be replaced without a GPU."""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa

from vila2_ray.corpus.shardfiles import ShardFiles
from vila2_ray.schema import VERDICT

_EDIT = "text"


class Opinions(NamedTuple):
    """What is thought of a shard's captions, by (row, variant)."""

    flags: dict[tuple[int, int], list[str]]
    """Of flagged captions only."""
    edits: dict[tuple[int, int], str]
    """Of edited captions only: what is trained on in their place, as `captions.filters.training_text` takes it."""


class Verdicts(ShardFiles):
    """Flags and edits (schema VERDICT) of captioned rows of a layer, a file per shard.

    No row or no flag: the caption is KEPT, as its model wrote it or as a person has edited it.
    """

    schema = VERDICT

    def opinions(self, source: str, shard: str) -> Opinions:
        """Flags and edits, by one read; none for a shard without verdicts."""
        if not self.has(source, shard):
            return Opinions({}, {})
        flags: dict[tuple[int, int], list[str]] = {}
        edits: dict[tuple[int, int], str] = {}
        for told in self.read(source, shard, ["row", "variant", "flags", _EDIT]).to_pylist():
            key = (told["row"], told["variant"])
            if told["flags"]:
                flags[key] = told["flags"]
            if told[_EDIT] is not None:
                edits[key] = told[_EDIT]
        return Opinions(flags, edits)

    def flags(self, source: str, shard: str) -> dict[tuple[int, int], list[str]]:
        """(row, variant) → flags, flagged captions only; empty for a shard without verdicts."""
        return self.opinions(source, shard).flags

    def read(self, source: str, shard: str, columns: list[str] | None = None) -> pa.Table:
        """The shard's rows; files from before there were edits have none."""
        table = super().read(source, shard, columns)
        if _EDIT not in table.column_names and (columns is None or _EDIT in columns):
            table = table.append_column(VERDICT.field(_EDIT), pa.nulls(table.num_rows, pa.string()))
        return table if columns is None else table.select(columns)
