"""What filters, judges or people think of a layer's captions: facts stay, opinions can be replaced without a GPU."""

from __future__ import annotations

from vila2_ray.corpus.shardfiles import ShardFiles
from vila2_ray.schema import VERDICT


class Verdicts(ShardFiles):
    """Flags (schema VERDICT) on captioned rows of a layer, a file per shard. No row or no flag: the caption is KEPT."""

    schema = VERDICT

    def flags(self, source: str, shard: str) -> dict[tuple[int, int], list[str]]:
        """(row, variant) → flags, flagged captions only; empty for a shard without verdicts."""
        if not self.has(source, shard):
            return {}
        table = self.read(source, shard, ["row", "variant", "flags"])
        return {(r["row"], r["variant"]): r["flags"] for r in table.to_pylist() if r["flags"]}
