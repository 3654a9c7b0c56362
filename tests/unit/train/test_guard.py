from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vila2_ray.config import Config, TrainConfig, semantic_fields
from vila2_ray.errors import ConfigError
from vila2_ray.train.guard import MIN_LOSSES, Judgement, LossGuard


def guard(**settings) -> LossGuard:
    return LossGuard(TrainConfig(**settings))


def fed(losses, start: int = 0, **settings) -> LossGuard:
    made = guard(**settings)
    for step, loss in enumerate(losses, start):
        assert made.judge(step, loss, 1.0).action == "ok", (step, loss)
    return made


def noisy(num: int, seed: int = 0) -> list[float]:
    rng = random.Random(seed)
    return [2.0 + rng.gauss(0, 0.05) for _ in range(num)]


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_stops_and_says_what_is_usual(loss: float) -> None:
    judged = fed([2.0, 2.5, 3.0]).judge(3, loss, 1.0)
    assert judged.action == "stop"
    assert judged.message.startswith(f"step 4: the loss is {loss} where 2.5 is usual. A lower train.<stage>.peak_lr")


def test_a_gradient_that_is_no_number_is_as_bad() -> None:
    judged = guard().judge(0, 2.0, math.nan)
    assert (judged.action, judged.message[:44]) == ("stop", "step 1: the gradient norm is nan, at a loss ")


def test_a_jump_is_told_from_noise_and_only_where_asked_for() -> None:
    losses = noisy(64)
    assert fed(losses).judge(64, 9.0, 1.0).action == "ok"
    careful = fed(losses, spike_factor=10, on_bad_loss="skip")
    assert careful.judge(64, 2.2, 1.0).action == "ok"
    judged = careful.judge(65, 3.0, 1.0)
    assert judged.action == "skip"
    assert "step 66: the loss jumped to 3 where " in judged.message
    assert careful.left_out_steps == {65}


def test_a_falling_loss_and_one_that_hardly_moves_are_no_jumps() -> None:
    fed([8 * 0.97**step + 1 for step in range(200)], spike_factor=4)
    fed([1.0] * 40 + [1.02], spike_factor=4)


@given(st.lists(st.floats(0.01, 1e6), max_size=MIN_LOSSES))
def test_nothing_is_a_jump_before_enough_is_known(losses: list[float]) -> None:
    fed(losses, spike_factor=1e-6)


@given(
    st.lists(st.floats(1.0, 2.0), min_size=MIN_LOSSES, max_size=100),
    st.floats(1.0, 50.0),
    st.integers(-10, 10),
)
def test_what_is_a_jump_does_not_depend_on_the_scale(losses: list[float], last: float, power: int) -> None:
    settings = {"spike_factor": 6.0, "on_bad_loss": "skip", "max_left_out_steps": 200}
    plain, scaled = guard(**settings), guard(**settings)
    for step, loss in enumerate([*losses, last]):
        judged = plain.judge(step, loss, 1.0)
        assert scaled.judge(step, loss * 2.0**power, 1.0).action == judged.action


def test_bad_losses_do_not_become_usual() -> None:
    made = fed(noisy(32), spike_factor=10, on_bad_loss="skip")
    assert [made.judge(step, 5.0, 1.0).action for step in range(32, 64)] == ["skip"] * 32
    judged = made.judge(64, 5.0, 1.0)
    assert judged.action == "stop"
    assert "32 steps are left out already, of at most train.max_left_out_steps=32" in judged.message
    assert made.judge(65, 2.0, 1.0).action == "ok"


def test_a_rollback_leaves_the_step_out_and_reaches_back_further_when_it_happens_again() -> None:
    made = fed(noisy(50), on_bad_loss="rollback")
    judged = made.judge(50, math.nan, 1.0)
    assert judged.action == "rollback"
    assert judged.message.endswith("back to the last saved state, to leave out this step")
    made.rolled_back(40)
    assert made.left_out_steps == {50}
    assert "the 2 steps up to this one" in made.judge(52, math.nan, 1.0).message
    made.rolled_back(40)
    assert made.left_out_steps == {50, 51, 52}
    made.judge(53, math.nan, 1.0)
    made.rolled_back(52)  # what was applied before the saved state cannot be left out any more
    assert made.left_out_steps == {50, 51, 52, 53}
    made.judge(900, math.nan, 1.0)  # another accident
    made.rolled_back(890)
    assert made.left_out_steps == {50, 51, 52, 53, 900}


def test_after_a_rollback_only_losses_before_it_are_known() -> None:
    made = fed(noisy(50), on_bad_loss="rollback", spike_factor=8)
    made.judge(50, 70.0, 1.0)
    made.rolled_back(40)
    assert [step for step, _ in made.state()["recent"]] == list(range(40))


def test_rollbacks_come_to_an_end() -> None:
    """Where the saved weights are spoiled, every way from them is bad."""
    made, actions, step = guard(on_bad_loss="rollback"), [], 10
    while not actions or actions[-1] != "stop":
        while step in made.left_out_steps:
            step += 1
        actions.append(made.judge(step, math.nan, 1.0).action)
        made.rolled_back(10)
        assert len(actions) < 100
    assert actions[:-1] == ["rollback"] * (len(actions) - 1)


@given(
    st.lists(st.one_of(st.floats(0.5, 3.0), st.just(math.nan), st.just(80.0)), max_size=120),
    st.integers(0, 120),
    st.sampled_from(["stop", "skip", "rollback"]),
)
def test_a_restored_guard_judges_as_the_undisturbed_one(losses: list[float], cut: int, policy: str) -> None:
    settings = {"on_bad_loss": policy, "spike_factor": 8.0, "spike_window": 16}
    whole, resumed = guard(**settings), guard(**settings)
    for step, loss in enumerate(losses):
        if step == cut:
            resumed = guard(**settings)
            resumed.restore(json.loads(json.dumps(whole.state())))
        judged = whole.judge(step, loss, 1.0)
        other = resumed.judge(step, loss, 1.0)
        assert judged == other
        if judged.action == "rollback":
            for each in (whole, resumed):
                each.rolled_back(max(0, step - 5))
    assert whole.state() == resumed.state()


def test_changing_the_answer_to_an_accident_invalidates_nothing() -> None:
    fields = ("on_bad_loss", "spike_factor", "spike_window", "max_left_out_steps")
    assert not {f"train.{name}" for name in fields} & set(semantic_fields(Config(), ""))


@pytest.mark.parametrize("settings", [{"spike_factor": -1}, {"spike_window": 4}, {"max_left_out_steps": 0}])
def test_settings_that_cannot_work_are_refused(settings) -> None:
    with pytest.raises(ConfigError, match=rf"train\.{next(iter(settings))} = "):
        TrainConfig(**settings)


def test_all_is_well_by_default() -> None:
    assert guard().judge(0, 1.0, 1.0) == Judgement("ok")
