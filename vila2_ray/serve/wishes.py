"""What each served name shall serve now: an operator's pin, else what the campaign has promoted or trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vila2_ray.campaign.promotion import read_promoted
from vila2_ray.campaign.serving import PROMOTED, Serving, Target, entry_target, read_serving, trained
from vila2_ray.campaign.state import Marker, read_marker
from vila2_ray.storage import Store


@dataclass(frozen=True)
class Wish:
    """What a name shall serve."""

    name: str
    target: Target | None = None
    """None: nothing yet. What is served, stays."""
    pinned: str = ""
    """Who pinned it and why, for people; empty where promotion is followed."""
    said_at: float = 0.0
    """When an operator last said something about the name (Unix time): a reason to try again what has failed."""
    missing: str = ""
    """Why there is no target."""


def look(store: Store, names: Sequence[str]) -> tuple[Wish, ...]:
    """What a campaign wishes now, in the order of `names`; two requests, and one for every name of a model."""
    stages = {name: stage_of(name) for name in names if name != PROMOTED}
    markers = {name: marker for name, stage in stages.items() if (marker := read_marker(store, stage)) is not None}
    return wishes(names, read_promoted(store), markers, read_serving(store))


def stage_of(name: str) -> str:
    """The stage that trains what a name serves: `vlm-1` → `sft-1`; a specialist is called by its skill."""
    return f"sft-{name.removeprefix('vlm-')}"


def wishes(
    names: Sequence[str], promoted: Mapping[str, Any], markers: Mapping[str, Marker], serving: Serving
) -> tuple[Wish, ...]:
    """`markers`: served name → marker of the stage that trains it, where it is done."""
    return tuple(_wish(name, promoted, markers, serving) for name in names)


def _wish(name: str, promoted: Mapping[str, Any], markers: Mapping[str, Marker], serving: Serving) -> Wish:
    word, pin = serving.word_on(name), serving.pin_of(name)
    said_at = word.at if word else 0.0
    if pin is not None:
        why = f": {pin.why}" if pin.why else ""
        done = "rolled back" if pin.action == "rollback" else "pinned"
        return Wish(name, pin.target, f"{done} by {pin.by}{why}", said_at)
    if name == PROMOTED:
        current = promoted["current"]
        target = entry_target(current) if current else None
        return Wish(name, target, said_at=said_at, missing="" if target else "nothing is promoted yet")
    if (marker := markers.get(name)) is None:
        return Wish(name, said_at=said_at, missing=f"the campaign has no finished model {name}")
    return Wish(name, trained(marker), said_at=said_at)
