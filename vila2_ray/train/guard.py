"""What becomes of a step whose loss is no number, or jumps: a judgement of every step. Pure.

The loop asks before it applies a step's gradients. Every rank sees the same loss and gradient norm, so all judge alike.

    stop      nothing is applied; the message says what the loss is, what is usual, and what can be done
    skip      the step's gradients are thrown away and training goes on; the schedule counts the step
    rollback  training goes back to the last saved state and leaves the offending steps out, as PaLM's did
              (arXiv 2204.02311, section 5.1): what spoils weights may lie before the step that shows it

A jump is told from noise by median and median absolute deviation of the last good losses, which no outlier moves. The
guard's state is some dozens of numbers, kept beside the training state, so that a resumed stage judges alike.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vila2_ray.config import TrainConfig

Action = Literal["ok", "stop", "skip", "rollback"]

MIN_LOSSES = 16
"""Good losses that must be known before one can be called a jump."""
_NORMAL = 1.4826
"""Median absolute deviation → standard deviation, of a normal distribution."""
_MIN_DEVIATION_SHARE = 0.01
"""Of the median: where losses hardly differ, a small step is no jump yet."""
_REMEDY = (
    "A lower train.<stage>.peak_lr or a longer warm-up usually helps; train.on_bad_loss=skip or rollback leaves the "
    "step out"
)
_REMEDY_IF_MANY = (
    "So many are no accident: lower train.<stage>.peak_lr, look at the samples, or raise the limit where the loss has "
    "changed for good"
)


@dataclass(frozen=True)
class Judgement:
    """What to do with a step; for anything but `ok` with the reason, a sentence for people."""

    action: Action
    message: str = ""


class LossGuard:
    """Judges the steps of one stage, counted from 0; messages count from 1, as progress does.

    On `rollback` the loop loads the last saved state (the stage's beginning where there is none), calls `rolled_back`
    instead of `restore`, and goes on from there. Steps in `left_out_steps` it passes by.
    """

    def __init__(self, settings: TrainConfig) -> None:
        self._settings = settings
        self._recent: deque[tuple[int, float]] = deque(maxlen=settings.spike_window)
        self._left_out: set[int] = set()
        self._last_bad, self._reach = -1, 0

    @property
    def goes_back(self) -> bool:
        """Whether a judgement may be `rollback`."""
        return self._settings.on_bad_loss == "rollback"

    @property
    def left_out_steps(self) -> frozenset[int]:
        """Steps whose gradients are never applied."""
        return frozenset(self._left_out)

    def judge(self, step: int, loss: float, grad_norm: float) -> Judgement:
        """Judge a step before it is applied; `loss` and `grad_norm` are those of all ranks together."""
        problem = self._problem(loss, grad_norm)
        if not problem:
            self._recent.append((step, loss))
            return Judgement("ok")
        action, most = self._settings.on_bad_loss, self._settings.max_left_out_steps
        if action == "stop":
            return Judgement("stop", f"step {step + 1}: {problem}. {_REMEDY}")
        reach = 1 if action == "skip" else self._next_reach(step)
        if len(self._left_out) + reach > most:
            said = f"{len(self._left_out)} steps are left out already, of at most train.max_left_out_steps={most}"
            return Judgement("stop", f"step {step + 1}: {problem}, and {said}. {_REMEDY_IF_MANY}")
        if action == "skip":
            self._left_out.add(step)
            return Judgement("skip", f"step {step + 1}: {problem}; left out as number {len(self._left_out)} of {most}")
        self._last_bad, self._reach = step, reach
        steps = "this step" if reach == 1 else f"the {reach} steps up to this one"
        return Judgement("rollback", f"step {step + 1}: {problem}; back to the last saved state, to leave out {steps}")

    def rolled_back(self, to_step: int) -> None:
        """Training goes on at `to_step` after a judgement `rollback`; steps before it stay applied."""
        self._left_out.update(range(max(to_step, self._last_bad - self._reach + 1), self._last_bad + 1))
        seen = [(step, loss) for step, loss in self._recent if step < to_step]
        self._recent.clear()
        self._recent.extend(seen)

    def state(self) -> dict[str, Any]:
        """What `restore` needs, as JSON can hold it."""
        return {
            "recent": [list(pair) for pair in self._recent],
            "left_out": sorted(self._left_out),
            "last_bad": self._last_bad,
            "reach": self._reach,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave; the settings may be others."""
        self._recent.clear()
        self._recent.extend((int(step), float(loss)) for step, loss in state["recent"])
        self._left_out = set(state["left_out"])
        self._last_bad, self._reach = state["last_bad"], state["reach"]

    def _problem(self, loss: float, grad_norm: float) -> str:
        """What is wrong with a step; "" for nothing."""
        usual = f" where {self._median():.4g} is usual" if self._recent else ""
        if not math.isfinite(loss):
            return f"the loss is {loss}{usual}"
        if not math.isfinite(grad_norm):
            return f"the gradient norm is {grad_norm}, at a loss of {loss:.4g}{usual}"
        if loss > self._border():
            return f"the loss jumped to {loss:.4g}{usual} (train.spike_factor={self._settings.spike_factor:g})"
        return ""

    def _border(self) -> float:
        """Loss above which a step is a jump."""
        if not self._settings.spike_factor or len(self._recent) < MIN_LOSSES:
            return math.inf
        median = self._median()
        deviation = _NORMAL * statistics.median(abs(loss - median) for _, loss in self._recent)
        return median + self._settings.spike_factor * max(deviation, _MIN_DEVIATION_SHARE * abs(median))

    def _median(self) -> float:
        return statistics.median(loss for _, loss in self._recent)

    def _next_reach(self, step: int) -> int:
        """Steps that a rollback leaves out: one, and twice as many each time that it soon happens again."""
        again = self._reach and step - self._last_bad <= self._settings.spike_window
        return 2 * self._reach if again else 1
