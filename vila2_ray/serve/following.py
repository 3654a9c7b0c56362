"""What the follower does next about one served name. Pure: out of what is wished, seen and remembered.

Where room is free, the new version starts beside the old one (a surge), captions its smoke picture, gets the questions,
and the old one ends when it has answered its own. Where there is none, a reload: the old one gets no more questions,
answers what it has, goes, and the new one is loaded in its place; if that fails, the old one is loaded again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vila2_ray.serve.states import Memory, Run, Version
from vila2_ray.serve.wishes import Wish


@dataclass(frozen=True)
class Start:
    """Put a version on the cluster."""

    version: Version


@dataclass(frozen=True)
class Check:
    """Ask a version that runs for its smoke caption."""

    version: Version


@dataclass(frozen=True)
class Route:
    """Send questions to a version from now on; None: to nobody, they are told to come back."""

    version: Version | None


@dataclass(frozen=True)
class Stop:
    """Let a version answer what it has begun, and end it."""

    key: str


@dataclass(frozen=True)
class GiveUp:
    """Note that a version does not come up. `is_final`: trying again is of no use."""

    key: str
    why: str
    is_final: bool


Action = Start | Check | Route | Stop | GiveUp


@dataclass(frozen=True)
class Bounds:
    """Seconds that the decisions go by."""

    load_seconds: float
    grace_seconds: float = 2.0
    """Between the last question's sending to a version and its end: who sends them has then heard of the change."""


def decide(
    wish: Wish,
    runs: Sequence[Run],
    memory: Memory,
    versions: dict[str, Version],
    has_room: bool,
    bounds: Bounds,
    now: float,
) -> list[Action]:
    """The next steps, in order; none while something has to be waited for.

    `runs` are of this name alone. `versions` are those whose target is known, by key. `has_room`: whether one more
    replica fits on the cluster now.
    """
    broken = [run for run in runs if run.phase == "failed"]
    late = [run for run in runs if run.phase == "loading" and now - run.begun_at > bounds.load_seconds]
    late = [run for run in late if run.key != memory.routed]  # its replicas are being replaced
    if broken or late:
        actions: list[Action] = [GiveUp(run.key, run.problem or "it does not come up", False) for run in broken]
        actions += [GiveUp(run.key, f"it has not loaded within {bounds.load_seconds:.0f} s", False) for run in late]
        return actions + [Stop(run.key) for run in (*broken, *late)]
    running = [run for run in runs if run.phase == "running"]
    loading = [run for run in runs if run.phase == "loading"]
    if memory.routed and memory.routed not in {run.key for run in running}:
        if memory.routed not in {run.key for run in loading}:  # a serving version whose replicas restart keeps its name
            return [Route(None)]
        running += [run for run in loading if run.key == memory.routed]
        loading = [run for run in loading if run.key != memory.routed]
    goal = _goal(wish, memory, now)
    if goal is None:
        return [Stop(run.key) for run in loading] or _keep(running, memory, versions)
    if memory.routed == goal.key:
        return [Stop(run.key) for run in (*loading, *_over(running, memory, bounds, now))]
    strangers = [run for run in loading if run.key != goal.key]
    if strangers:
        return [Stop(run.key) for run in strangers]
    if loading:
        return []
    if any(run.key == goal.key for run in running):
        return _put_to_service(goal, memory)
    if any(run.phase == "stopping" for run in runs):
        return []  # it frees what the next one needs
    if not running or has_room:
        return [*_keep(running, memory, versions, other_than=goal.key), Start(goal)]
    if memory.routed:
        return [Route(None)]
    if any(run.key not in memory.retired for run in running):  # it served before this follower came to be
        return _keep(running, memory, versions)
    return [Stop(run.key) for run in _over(running, memory, bounds, now)]


def _goal(wish: Wish, memory: Memory, now: float) -> Version | None:
    """What is to be served: what is wished, unless that has failed; then what was served last. None: what runs."""
    last = memory.last
    if wish.target is None:
        return last
    version = Version(wish.name, wish.target)
    if not memory.blocks(version, wish, now):
        return version
    return last if last is not None and not memory.blocks(last, wish, now) else None


def _put_to_service(version: Version, memory: Memory) -> list[Action]:
    if version.key in memory.good:
        return [Route(version)]
    return [] if version.key in memory.checking else [Check(version)]


def _keep(running: Sequence[Run], memory: Memory, versions: dict[str, Version], other_than: str = "") -> list[Action]:
    """Let questions go to something that runs, where they go to nothing."""
    if memory.routed:
        return []
    known = [versions[run.key] for run in running if run.key in versions and run.key != other_than]
    return _put_to_service(known[-1], memory) if known else []


def _over(running: Sequence[Run], memory: Memory, bounds: Bounds, now: float) -> list[Run]:
    """Versions that no question can go to any more."""
    others = [run for run in running if run.key != memory.routed]
    return [run for run in others if now - memory.retired.get(run.key, 0.0) >= bounds.grace_seconds]
