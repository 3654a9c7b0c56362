"""What the follower decides: one by one, and over random lives of a cluster on which versions fail and vanish."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vila2_ray.campaign.serving import Target
from vila2_ray.serve.following import Action, Bounds, Check, GiveUp, Route, Start, Stop, decide
from vila2_ray.serve.states import Memory, Phase, Run, Version
from vila2_ray.serve.wishes import Wish

TARGETS = [Target(f"vlm-{k}", f"checkpoints/vlm-{k}/sft", f"{k}" * 64) for k in range(4)]
VERSIONS = [Version("promoted", target) for target in TARGETS]
OLD, NEW = VERSIONS[0], VERSIONS[1]
BOUNDS = Bounds(load_seconds=100.0, grace_seconds=2.0)
KNOWN = {version.key: version for version in VERSIONS}
SERVING = Memory(good=frozenset({OLD.key})).routed_to(OLD, 0.0)


def run(version: Version, phase: Phase = "running", begun_at: float = 0.0) -> Run:
    return Run(version.key, phase, begun_at)


def steps(
    memory: Memory, *runs: Run, wish: Version | None = NEW, room: bool = True, now: float = 10.0, said_at: float = 0.0
) -> list[Action]:
    wished = Wish("promoted", wish.target if wish else None, said_at=said_at)
    return decide(wished, runs, memory, KNOWN, room, BOUNDS, now)


def test_the_first_is_started_checked_and_routed() -> None:
    assert steps(Memory(), wish=None) == []
    assert steps(Memory(), room=False) == [Start(NEW)], "also without room: the cluster may grow"
    assert steps(Memory(), run(NEW, "loading")) == []
    assert steps(Memory(), run(NEW)) == [Check(NEW)]
    assert steps(Memory().asked(NEW.key), run(NEW)) == []
    assert steps(Memory().asked(NEW.key).checked(NEW.key, True), run(NEW)) == [Route(NEW)]
    assert steps(Memory().routed_to(NEW, 1.0), run(NEW)) == []


def test_a_surge_keeps_the_old_one_until_the_new_one_is_good() -> None:
    assert steps(SERVING, run(OLD)) == [Start(NEW)]
    assert steps(SERVING, run(OLD), run(NEW, "loading")) == []
    assert steps(SERVING, run(OLD), run(NEW)) == [Check(NEW)]
    good = SERVING.checked(NEW.key, True)
    assert steps(good, run(OLD), run(NEW)) == [Route(NEW)]
    switched = good.routed_to(NEW, 10.0)
    assert steps(switched, run(OLD), run(NEW), now=11.0) == [], "who asks may not have heard of the change"
    assert steps(switched, run(OLD), run(NEW), now=12.0) == [Stop(OLD.key)]
    assert steps(switched.seen([run(NEW)]), run(OLD, "stopping"), run(NEW), now=13.0) == []


def test_without_room_the_old_one_drains_first_and_comes_back_if_the_new_one_fails() -> None:
    assert steps(SERVING, run(OLD), room=False) == [Route(None)]
    held = SERVING.routed_to(None, 10.0)
    assert steps(held, run(OLD), room=False, now=11.0) == []
    assert steps(held, run(OLD), room=False, now=12.5) == [Stop(OLD.key)]
    assert steps(held, run(OLD, "stopping"), room=False, now=13.0) == []
    assert steps(held, room=False, now=14.0) == [Start(NEW)]
    broken = Run(NEW.key, "failed", 14.0, "no such tensor")
    assert steps(held, broken, room=False, now=15.0) == [GiveUp(NEW.key, "no such tensor", False), Stop(NEW.key)]
    failed = held.failed(NEW.key, "no such tensor", True, 0.0, 15.0)
    assert steps(failed, run(NEW, "stopping"), room=False, now=16.0) == []
    assert steps(failed, room=False, now=17.0) == [Start(OLD)]
    back = failed.checked(OLD.key, True)
    assert steps(back, run(OLD), room=False, now=18.0) == [Route(OLD)]
    assert steps(back.routed_to(OLD, 18.0), run(OLD), room=False, now=1e9) == [], "and the failed one is left alone"
    assert steps(back.routed_to(OLD, 18.0), run(OLD), said_at=20.0, now=21.0) == [Start(NEW)], "until somebody asks"


def test_a_version_that_does_not_come_up_in_time_is_given_up() -> None:
    late = run(NEW, "loading", begun_at=10.0)
    assert steps(SERVING, run(OLD), late, now=110.0) == []
    [give_up, stop] = steps(SERVING, run(OLD), late, now=111.0)
    assert isinstance(give_up, GiveUp)
    assert (give_up.key, give_up.is_final) == (NEW.key, False)
    assert stop == Stop(NEW.key)
    restarting = run(OLD, "loading")
    assert steps(SERVING, restarting, wish=OLD, now=1e6) == [], "one that serves is restarted by the cluster, not by us"


def test_a_change_of_mind_ends_what_loads() -> None:
    assert steps(SERVING, run(OLD), run(NEW, "loading"), wish=OLD) == [Stop(NEW.key)]
    third = VERSIONS[2]
    assert steps(SERVING, run(OLD), run(NEW, "loading"), wish=third) == [Stop(NEW.key)]
    assert steps(SERVING, run(OLD), run(NEW, "stopping"), wish=third) == []
    assert steps(SERVING, run(OLD), wish=third) == [Start(third)]


def test_nothing_wished_changes_nothing() -> None:
    assert steps(SERVING, run(OLD), wish=None) == []
    assert steps(SERVING, run(OLD), run(NEW, "loading"), wish=None) == [Stop(NEW.key)]
    assert steps(Memory(), run(OLD), wish=None) == [Check(OLD)], "a new follower finds what ran before"


@pytest.mark.parametrize("room", [True, False])
def test_a_new_follower_goes_on_from_what_it_sees(room: bool) -> None:
    assert steps(Memory(), run(OLD), wish=OLD, room=room) == [Check(OLD)]
    assert steps(Memory(), run(OLD), run(NEW, "loading"), room=room) == []
    assert steps(Memory(), run(OLD), run(NEW), room=room) == [Check(NEW)]
    first = steps(Memory(), run(OLD), room=room)
    assert first == ([Check(OLD), Start(NEW)] if room else [Check(OLD)])
    good = Memory(good=frozenset({OLD.key}))
    assert Route(OLD) in steps(good, run(OLD), room=room), "questions go to the old one until there is a better"


def test_what_vanished_is_started_again() -> None:
    assert steps(SERVING, wish=OLD) == [Route(None)]
    assert steps(SERVING.routed_to(None, 1.0), wish=OLD) == [Start(OLD)]


# --- lives -----------------------------------------------------------------------------------------------------------


@dataclass
class Cluster:
    """What the follower acts on, in steps of a second."""

    room: bool
    bad: frozenset[str]
    """Keys that fail their smoke caption."""
    runs: dict[str, Run] = field(default_factory=dict)
    memory: Memory = field(default_factory=Memory)
    now: float = 0.0

    def step(self, wish: Wish) -> None:
        runs = list(self.runs.values())
        self.memory = self.memory.seen(runs)
        running = [r for r in runs if r.phase == "running"]
        has_room = self.room or not running
        for action in decide(wish, runs, self.memory, KNOWN, has_room, BOUNDS, self.now):
            self.check(action, has_room)
            self.act(action, wish)
        self.now += 1.0

    def check(self, action: Action, has_room: bool) -> None:
        phases = {key: r.phase for key, r in self.runs.items()}
        if isinstance(action, Start):
            assert action.version.key not in self.runs
            assert "loading" not in phases.values(), "never two loads for one name"
            assert has_room or not self.runs, "in the place of the old one only when that is gone"
        elif isinstance(action, Route) and action.version is not None:
            assert phases[action.version.key] == "running"
            assert action.version.key in self.memory.good
            assert action.version.key not in self.bad
        elif isinstance(action, Route):
            assert not has_room or self.memory.routed not in phases, "with room there is always something that answers"
        elif isinstance(action, Stop):
            assert action.key != self.memory.routed, "what answers is not ended"
            assert phases[action.key] != "stopping"

    def act(self, action: Action, wish: Wish) -> None:
        if isinstance(action, Start):
            self.runs[action.version.key] = run(action.version, "loading", self.now)
        elif isinstance(action, Check):
            self.memory = self.memory.asked(action.version.key)
        elif isinstance(action, Route):
            self.memory = self.memory.routed_to(action.version, self.now)
        elif isinstance(action, GiveUp):
            self.memory = self.memory.failed(action.key, action.why, action.is_final, wish.said_at, self.now)
        elif isinstance(action, Stop):
            self.runs[action.key] = Run(action.key, "stopping", self.now)

    def happen(self, what: str, wish: Wish) -> None:
        """Something on the cluster goes on by itself."""
        keys = [key for key, r in self.runs.items() if r.phase == {"load": "loading", "end": "stopping"}.get(what)]
        for key in keys:
            if what == "load":
                self.runs[key] = Run(key, "running", self.runs[key].begun_at)
            else:
                del self.runs[key]
        if what == "check":
            for key in sorted(self.memory.checking):
                if key in self.bad:
                    self.memory = self.memory.failed(key, "no caption", True, wish.said_at, self.now)
                    self.runs[key] = Run(key, "stopping", self.now)
                else:
                    self.memory = self.memory.checked(key, True)
        if what == "break":
            for key, r in self.runs.items():
                if r.phase == "loading":
                    self.runs[key] = Run(key, "failed", r.begun_at, "killed")
        if what == "forget":
            self.memory = Memory()
        if what == "vanish" and self.runs:
            self.runs.pop(sorted(self.runs)[0])

    def settle(self, wish: Wish) -> None:
        """Time passes, and nothing bad happens any more."""
        for _ in range(1500):
            for what in ("load", "check", "end"):
                self.happen(what, wish)
            self.step(wish)


EVENTS = st.sampled_from(["load", "check", "end", "break", "forget", "vanish", "wish 0", "wish 1", "wish 2", "none"])


@settings(max_examples=60, deadline=None)
@given(st.booleans(), st.frozensets(st.sampled_from([v.key for v in VERSIONS[1:]])), st.lists(EVENTS, max_size=40))
def test_lives(room: bool, bad: frozenset[str], events: list[str]) -> None:
    cluster, wish = Cluster(room, bad), Wish("promoted", TARGETS[0])
    for event in events:
        if event == "none":
            wish = Wish("promoted")
        elif event.startswith("wish"):
            wish = Wish("promoted", TARGETS[int(event[-1])])
        else:
            cluster.happen(event, wish)
        cluster.step(wish)
    cluster.settle(wish)
    wished = Version("promoted", wish.target) if wish.target else None
    if wished is not None and wished.key not in bad:
        assert cluster.memory.routed == wished.key
        assert list(cluster.runs) == [wished.key], "and nothing else is left"
    elif cluster.memory.last is not None:
        assert cluster.memory.routed == cluster.memory.last.key, "the last good one answers"
