"""What hooks say of samples before they are published: a score per sample, shard by shard. Thresholds come later.

<campaign>/verdicts/release-<hook>/<fp8>/<source>/<shard>.parquet    schema HOOK_VERDICT
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pyarrow as pa

from vila2_ray.config import Finds
from vila2_ray.corpus.shardfiles import ShardFiles
from vila2_ray.errors import CorpusError
from vila2_ray.schema import HOOK_VERDICT


class HookVerdicts(ShardFiles):
    """Scores of a hook: a file per shard, a row per sample."""

    schema = HOOK_VERDICT

    def _check(self, table: pa.Table, source: str, shard: str, where: str) -> None:
        """Raises CorpusError unless these are the rows 0 … n − 1 of this shard in order."""
        if table["row"].to_pylist() != list(range(table.num_rows)):
            raise CorpusError(where, "rows are out of order or not all there")
        if set(table["source"].to_pylist()) - {source} or set(table["shard"].to_pylist()) - {shard}:
            raise CorpusError(where, "holds rows of another shard")


@dataclass(frozen=True)
class Judged:
    """A hook that has looked at every sample, and where it begins to speak against one. Picklable."""

    name: str
    finds: Finds
    verdicts: HookVerdicts
    min_score: float
    told: dict[str, str] = field(default_factory=dict)
    """What it is, for the card: no paths."""

    def against(self, source: str, shard: str) -> dict[int, str]:
        """Row → `nsfw`, or `nsfw not judged`, of samples that it speaks against. Raises CorpusError where it has not
        looked.
        """
        if not self.verdicts.has(source, shard):
            where = self.verdicts.store.path(self.verdicts.path(source, shard))
            raise CorpusError(where, f"hook {self.name} has not looked at this shard", "Export again: vila2 export")
        found = {}
        for row in self.verdicts.read(source, shard, ["row", "score", "problem"]).to_pylist():
            if row["score"] is not None and row["score"] >= self.min_score:
                found[row["row"]] = str(self.finds)
            elif row["problem"]:
                found[row["row"]] = f"{self.finds} not judged"
        return found


def count_verdicts(table: pa.Table, min_score: float) -> dict[str, int]:
    """Samples by what was said of them: `samples`, `judged`, `against`, `not_judged`."""
    counts: Counter[str] = Counter(samples=table.num_rows, judged=0, against=0, not_judged=0)
    for row in table.select(["score", "problem"]).to_pylist():
        is_against = row["score"] is not None and row["score"] >= min_score
        counts["judged"] += row["score"] is not None
        counts["against"] += is_against
        counts["not_judged"] += bool(row["problem"]) and not is_against
    return dict(counts)
