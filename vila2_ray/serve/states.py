"""What is known of a served name: which versions of it run, and what became of those that were tried. Pure.

What runs is observed (`Run`). What cannot be observed is remembered (`Memory`), and a follower that has lost it finds
its way again: a version that runs is asked for its smoke caption anew, a failure is tried once more.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from vila2_ray.campaign.serving import Target
from vila2_ray.serve.captioner import Served, Standing
from vila2_ray.serve.wishes import Wish

Phase = Literal["loading", "running", "failed", "stopping"]

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 10.0, 600.0


@dataclass(frozen=True)
class Version:
    """One checkpoint under one served name."""

    name: str
    target: Target

    @property
    def key(self) -> str:
        """Unique among all that can run at once, and the same wherever it is worked out."""
        return f"{self.name}--{self.target.model}--{self.target.digest[:16]}"


def name_of(key: str) -> str:
    """The served name in a version's key."""
    return key.partition("--")[0]


@dataclass(frozen=True)
class Run:
    """A version on the cluster, as it is seen there."""

    key: str
    phase: Phase
    """loading: no replica of it answers yet. failed: it does not come up. stopping: it answers what it has begun."""
    begun_at: float
    """Unix time."""
    problem: str = ""
    """Of a failed one, for people."""


@dataclass(frozen=True)
class Failure:
    """A version that could not be put to service."""

    why: str
    not_before: float
    """When it may be tried again (Unix time); infinity: not by itself."""
    count: int
    said_at: float
    """Of the wish that it failed for: an operator's next word makes it void."""


@dataclass(frozen=True)
class Memory:
    """What the follower knows of one name beside what it sees."""

    routed: str = ""
    """Key of the version that questions go to."""
    good: frozenset[str] = frozenset()
    """Keys that have captioned their smoke picture."""
    checking: frozenset[str] = frozenset()
    """Keys whose smoke caption is awaited."""
    retired: Mapping[str, float] = field(default_factory=dict)
    """Key → since when no question goes there."""
    last: Version | None = None
    """What questions went to most recently: loaded again where its successor fails."""
    failures: Mapping[str, Failure] = field(default_factory=dict)

    def blocks(self, version: Version, wish: Wish, now: float) -> bool:
        """Whether a version is not to be tried now."""
        failure = self.failures.get(version.key)
        return failure is not None and failure.said_at == wish.said_at and now < failure.not_before

    def checked(self, key: str, is_good: bool) -> Memory:
        """A smoke caption has come, or will not."""
        good = self.good | {key} if is_good else self.good - {key}
        return replace(self, good=good, checking=self.checking - {key})

    def asked(self, key: str) -> Memory:
        """A smoke caption is awaited."""
        return replace(self, checking=self.checking | {key})

    def routed_to(self, version: Version | None, now: float) -> Memory:
        """Questions go to another version from now on, or to none."""
        key = version.key if version else ""
        retired = {k: at for k, at in self.retired.items() if k != key}
        if self.routed and self.routed != key:
            retired[self.routed] = now
        failures = {k: v for k, v in self.failures.items() if k != key}
        return replace(self, routed=key, retired=retired, last=version or self.last, failures=failures)

    def failed(self, key: str, why: str, is_final: bool, said_at: float, now: float) -> Memory:
        """A version has not come up, or failed its smoke caption; one that may pass is tried again, later each time."""
        before = self.failures.get(key)
        count = before.count + 1 if before is not None and before.said_at == said_at else 1
        wait = math.inf if is_final else min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** min(count - 1, 20))
        failure = Failure(why, now + wait, count, said_at)
        return replace(self.checked(key, is_good=False), failures={**self.failures, key: failure})

    def seen(self, runs: Iterable[Run]) -> Memory:
        """Nothing is remembered of what no longer runs, but failures and what was served last."""
        there = {run.key for run in runs if run.phase != "stopping"}
        retired = {key: at for key, at in self.retired.items() if key in there}
        return replace(self, good=self.good & there, checking=self.checking & there, retired=retired)


def standing(wish: Wish, runs: Iterable[Run], memory: Memory, served: Served | None, now: float) -> Standing:
    """How a name stands, for `readyz` and for people. `served`: what questions go to."""
    version = Version(wish.name, wish.target) if wish.target else None
    said = [wish.pinned] if wish.pinned else []
    if version is None:
        said.append(wish.missing)
    elif version.key != memory.routed:
        failure = memory.failures.get(version.key)
        if failure is not None and memory.blocks(version, wish, now):
            at = "" if math.isinf(failure.not_before) else time.strftime("%H:%M:%S", time.gmtime(failure.not_before))
            again = f"; tried again at {at} UTC" if at else ""
            said.append(f"{version.target.label} failed: {failure.why}{again}")
        elif served is None and memory.last is not None and memory.last.key != version.key:
            said.append(f"{memory.last.target.label} made room for {version.target.label}, which loads")
        elif any(run.key == version.key for run in runs) or served is None:
            said.append(f"{version.target.label} loads")
        else:
            said.append(f"{version.target.label} is next")
    if served is not None:
        return Standing(wish.name, "serving", served, "; ".join(said))
    loads = version is not None and not memory.blocks(version, wish, now)
    loads = loads or any(run.phase in ("loading", "running") for run in runs)
    return Standing(wish.name, "loading" if loads or version is None else "failed", None, "; ".join(said))
