"""What is done: stage markers, the last atomic write of every stage."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from vila2_ray.campaign.plan import LAST_STAGES, Stage, changed_fields, fields_of
from vila2_ray.config import Config
from vila2_ray.errors import FingerprintError
from vila2_ray.storage import Store


@dataclass(frozen=True)
class Marker:
    """`stages/<stage>.json`: this stage is whole, and this is what it was made from and what it made."""

    stage: str
    fingerprint: str
    fields: dict[str, Any]
    inputs: dict[str, str]
    digest: str
    """Of the output: what later stages hash."""
    epoch: int
    """Of the lease under which it was written."""
    seconds: float = 0.0
    finished_at: float = field(default_factory=time.time)
    """Unix time."""
    covers: str = ""
    """Digest of the corpus that a layer covers; shards added later are captioned without redoing the others."""
    summary: dict[str, Any] = field(default_factory=dict)


def read_markers(store: Store) -> dict[str, Marker]:
    """Every finished stage by name, from one listing."""
    names = store.list("stages", suffix=".json")
    markers = (Marker(**json.loads(store.read_bytes(name))) for name in names)
    return {marker.stage: marker for marker in markers}


def write_marker(store: Store, marker: Marker) -> None:
    store.write_bytes(f"stages/{marker.stage}.json", json.dumps(asdict(marker), indent=1, sort_keys=True).encode())


def drop_markers(store: Store, plan: list[Stage], first: str) -> None:
    """Take back the markers of `first` and of every stage after it; what they made stays until it is written again.

    A layer that retried one of theirs goes with it.
    """
    names = [stage.name for stage in plan]
    markers = store.list("stages", suffix=".json")
    for name in names[names.index(first) :]:
        store.delete(f"stages/{name}.json")
        for retried in markers:
            if retried.startswith(f"stages/{name}-retry-"):
                store.delete(retried)


def check_fields(plan: list[Stage], config: Config, markers: Mapping[str, Marker]) -> None:
    """Raises FingerprintError where finished stages were made under other semantic fields; says what to do."""
    for i, stage in enumerate(plan):
        marker = markers.get(stage.name)
        if marker is None or stage.name in LAST_STAGES:
            continue
        changes = changed_fields(marker.fields, fields_of(stage, config))
        if changes:
            later = [s.name for s in plan[i:] if s.name in markers and s.name not in LAST_STAGES]
            raise FingerprintError(
                "configuration",
                "; ".join(changes),
                f"finished stages were made with the old value ({', '.join(later)}). Set it back, choose another "
                f"campaign=FOLDER, or redo them with --from {stage.name}",
            )


def read_round_scores(markers: Mapping[str, Marker]) -> list[dict[str, float]]:
    """Held-out scores of VLM_0, VLM_1 …, as far as they are without a gap."""
    scores: list[dict[str, float]] = []
    while (marker := markers.get(f"evaluate-{len(scores)}")) is not None:
        scores.append(dict(marker.summary["scores"]))
    return scores
