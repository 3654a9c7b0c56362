"""What is done: stage markers, the last atomic write of every stage.

A marker is written under the lease's fence: the version that stands there is read first, then the lease is checked,
then the marker is put in place of that version and no other. A driver that takes a campaign over first puts its epoch
into every marker's place, so that one that was only paused, even between check and write, finds another version.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from vila2_ray.campaign.plan import LAST_STAGES, Stage, changed_fields, fields_of
from vila2_ray.config import Config
from vila2_ray.errors import ConditionFailed, FingerprintError, LeaseLost
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
    fence: int = 0
    """Epoch of the last driver that took the campaign over while this marker stood."""


Check = Callable[[], None]
"""Raises LeaseLost unless this driver holds the lease."""


def read_markers(store: Store) -> dict[str, Marker]:
    """Every finished stage by name, from one listing."""
    entries = (json.loads(store.read_bytes(name)) for name in store.list("stages", suffix=".json"))
    return {entry["stage"]: Marker(**entry) for entry in entries if _is_done(entry)}


def read_marker(store: Store, stage: str) -> Marker | None:
    """One finished stage, by one request; None where it is not done."""
    found = store.read_versioned(_file(stage))
    entry = json.loads(found[0]) if found else {}
    return Marker(**entry) if _is_done(entry) else None


def write_marker(store: Store, marker: Marker, check: Check = lambda: None) -> None:
    """Say that a stage is done. Raises LeaseLost when another driver has taken the campaign over."""
    _replace(store, marker.stage, asdict(marker), marker.epoch, check)


def drop_markers(store: Store, plan: list[Stage], first: str, epoch: int = 0, check: Check = lambda: None) -> None:
    """Take back the markers of `first` and of every stage after it; what they made stays until it is written again.

    A layer that retried one of theirs goes with it.
    Raises LeaseLost when another driver has taken the campaign over.
    """
    names, done = [stage.name for stage in plan], read_markers(store)
    dropped = names[names.index(first) :]
    dropped += [name for name in done if any(name.startswith(f"{stage}-retry-") for stage in dropped)]
    for name in dropped:
        if name in done:
            _replace(store, name, {"stage": name, "fence": epoch}, epoch or done[name].epoch, check)


def fence_markers(store: Store, names: Iterable[str], epoch: int) -> None:
    """Put the epoch of a driver that has just taken the campaign over into these stages' markers, done or not."""
    for name in names:
        while True:
            found = store.read_versioned(_file(name))
            entry = json.loads(found[0]) if found else {"stage": name}
            if _epoch(entry) >= epoch:
                break
            try:
                store.put_if(_file(name), _dump({**entry, "fence": epoch}), found[1] if found else None)
            except ConditionFailed:  # the other driver's last word: it counts, and is fenced in turn
                continue


def _replace(store: Store, name: str, entry: dict[str, Any], epoch: int, check: Check) -> None:
    found = store.read_versioned(_file(name))
    check()
    lost = LeaseLost(
        f"{store.path(_file(name))}: another driver has taken this campaign over; stopping without writing"
    )
    if found is not None and _epoch(json.loads(found[0])) > epoch:
        raise lost
    try:
        store.put_if(_file(name), _dump(entry), found[1] if found else None)
    except ConditionFailed as error:
        raise lost from error


def _file(name: str) -> str:
    return f"stages/{name}.json"


def _dump(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, indent=1, sort_keys=True).encode()


def _is_done(entry: Mapping[str, Any]) -> bool:
    """Whether it is a marker, not what a fence or `drop_markers` left in its place."""
    return "fingerprint" in entry


def _epoch(entry: Mapping[str, Any]) -> int:
    return max(int(entry.get("epoch", 0)), int(entry.get("fence", 0)))


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
    """Scores of VLM_0, VLM_1 …, as far as they are without a gap: held-out ones, and benchmarks' as `pope.f1`."""
    return [scores_of(marker) for marker in _rounds(markers)]


def read_main_scores(markers: Mapping[str, Marker], metric: str) -> list[dict[str, float]]:
    """The same, but of each benchmark only the score that it is known by, and `metric`."""
    found = []
    for marker in _rounds(markers):
        mains = {f"{name}.{result['main']}" for name, result in marker.summary.get("benchmarks", {}).items()}
        kept = {metric, *mains, *marker.summary["scores"]}
        found.append({name: value for name, value in scores_of(marker).items() if name in kept})
    return found


def scores_of(marker: Marker) -> dict[str, float]:
    """What an evaluate stage found: held-out scores, and benchmarks' as `pope.f1`."""
    found = dict(marker.summary["scores"])
    for name, result in marker.summary.get("benchmarks", {}).items():
        found |= {f"{name}.{score}": value for score, value in result["scores"].items()}
    return found


def _rounds(markers: Mapping[str, Marker]) -> list[Marker]:
    found: list[Marker] = []
    while (marker := markers.get(f"evaluate-{len(found)}")) is not None:
        found.append(marker)
    return found
