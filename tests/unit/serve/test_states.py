"""What the follower remembers of a name, and how it tells people."""

from __future__ import annotations

import math

from tests.unit.campaign.test_serving import A, B
from vila2_ray.serve.captioner import Served
from vila2_ray.serve.states import FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS, Memory, Run, Version, name_of, standing
from vila2_ray.serve.wishes import Wish

OLD, NEW = Version("promoted", A), Version("promoted", B)
SERVED = Served("promoted", A.model, A.digest)


def test_a_key_tells_the_name_and_is_of_one_checkpoint() -> None:
    assert name_of(OLD.key) == "promoted"
    assert len({OLD.key, NEW.key, Version("vlm-0", A).key}) == 3


def test_what_may_pass_is_tried_again_later_each_time_and_what_may_not_waits_for_a_word() -> None:
    wish, memory, waits = Wish("promoted", B), Memory(), []
    for _ in range(12):
        memory = memory.failed(NEW.key, "a hiccup", False, 0.0, now=100.0)
        waits.append(memory.failures[NEW.key].not_before - 100.0)
    assert waits[:3] == [FIRST_WAIT_SECONDS, 2 * FIRST_WAIT_SECONDS, 4 * FIRST_WAIT_SECONDS]
    assert waits[-1] == LONGEST_WAIT_SECONDS
    assert memory.blocks(NEW, wish, 100.0 + LONGEST_WAIT_SECONDS - 1)
    assert not memory.blocks(NEW, wish, 100.0 + LONGEST_WAIT_SECONDS)
    final = Memory().failed(NEW.key, "no caption", True, 0.0, now=100.0)
    assert math.isinf(final.failures[NEW.key].not_before)
    assert final.blocks(NEW, wish, 1e12)
    assert not final.blocks(NEW, Wish("promoted", B, said_at=5.0), 101.0), "an operator's word makes a failure void"


def test_routing_retires_what_was_routed_and_forgets_its_successor_s_failures() -> None:
    memory = Memory().failed(NEW.key, "a hiccup", False, 0.0, 1.0).routed_to(OLD, 2.0).routed_to(NEW, 3.0)
    assert (memory.routed, memory.last, dict(memory.retired), dict(memory.failures)) == (
        NEW.key,
        NEW,
        {OLD.key: 3.0},
        {},
    )
    nobody = memory.routed_to(None, 4.0)
    assert (nobody.routed, nobody.last) == ("", NEW)
    assert dict(nobody.seen([Run(NEW.key, "running", 0.0)]).retired) == {NEW.key: 4.0}


def test_standing_says_what_answers_and_what_is_going_on() -> None:
    wish, now = Wish("promoted", B), 50.0
    memory = Memory().routed_to(OLD, 1.0)
    runs = [Run(OLD.key, "running", 0.0)]

    def told(memory: Memory, served: Served | None, *runs: Run, wish: Wish = wish) -> tuple[str, str]:
        found = standing(wish, runs, memory, served, now)
        assert found.served == served
        return found.state, found.detail

    assert told(memory, SERVED, *runs) == ("serving", "vlm-1@bb22 is next")
    assert told(memory, SERVED, *runs, Run(NEW.key, "loading", 0.0)) == ("serving", "vlm-1@bb22 loads")
    failed = memory.failed(NEW.key, "no caption", True, 0.0, 40.0)
    assert told(failed, SERVED, *runs) == ("serving", "vlm-1@bb22 failed: no caption")
    assert told(memory.routed_to(None, 2.0), None, *runs) == (
        "loading",
        "vlm-0@aa11 made room for vlm-1@bb22, which loads",
    )
    assert told(Memory(), None, Run(NEW.key, "loading", 0.0))[0] == "loading"
    assert told(Memory().failed(NEW.key, "no caption", True, 0.0, 40.0), None) == (
        "failed",
        "vlm-1@bb22 failed: no caption",
    )
    passing = Memory().failed(NEW.key, "a hiccup", False, 0.0, 45.0)
    assert told(passing, None) == ("failed", "vlm-1@bb22 failed: a hiccup; tried again at 00:00:55 UTC")
    assert told(Memory(), None, wish=Wish("promoted", missing="nothing is promoted yet")) == (
        "loading",
        "nothing is promoted yet",
    )
    pinned = Wish("promoted", A, pinned="pinned by me")
    assert told(memory, SERVED, *runs, wish=pinned) == ("serving", "pinned by me")
