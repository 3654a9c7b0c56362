"""One rank's way through the steps of a stage: gradients, judgement, update, saving, going back."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from vila2_ray.config import StageConfig, TrainConfig
from vila2_ray.errors import StageFailed
from vila2_ray.train.checkpoint import Course, StepStore
from vila2_ray.train.collate import Batch, empty_batch
from vila2_ray.train.features import FeatureCache, LossModule, frozen_features
from vila2_ray.train.guard import LossGuard
from vila2_ray.train.optimize import lr_factor, make_optimizer, set_lr
from vila2_ray.train.packplan import PackPlan, rank_slice
from vila2_ray.train.parallelize import Place
from vila2_ray.train.reading import Reader, StepData
from vila2_ray.train.shard import reduce_at


@dataclass(frozen=True)
class StepReport:
    """What a finished step says about itself; counts are this rank's."""

    step: int
    """Finished steps so far, this one included."""
    num_steps: int
    loss: float
    """Mean over the step's supervised tokens, all ranks."""
    lr: float
    grad_norm: float
    num_items: int
    num_tokens: int
    num_images: int
    seconds: float
    """Since the loop began in this process."""
    step_seconds: float
    """Of this step, waiting for data included."""
    data_seconds: float
    """Waited for this step's data."""
    note: str = ""
    """What people should be told of: a step that was left out, and why."""


@dataclass
class FitResult:
    """The course of a stage, earlier runs of it included."""

    losses: list[float]
    """One per step; not a number for steps that were left out."""
    first_step: int = 0
    """Where this process began."""
    num_masked: int = 0
    """Slots whose image could not be decoded, this process and rank."""
    seconds: float = 0.0
    """Training time, earlier runs included."""
    data_seconds: float = 0.0
    """Of this process's time, spent waiting for data."""


@dataclass(frozen=True)
class Watch:
    """Notices that the machine may be taken away. `is_leaving` is called by all ranks after the same steps."""

    is_leaving: Callable[[], bool]
    every_seconds: float = 5.0
    is_ending: Callable[[], bool] = bool
    """Whether training shall end here, to go on another day. Asked of rank 0 alone; by default never."""


class Halted(Exception):
    """The watch said that training shall end here; its state is saved. Raised on all ranks after the same step."""


class RankRun:
    """A model that is ready on its place, with its optimizer, on its way through the plan."""

    def __init__(
        self,
        module: LossModule,
        plan: PackPlan,
        stage: StageConfig,
        place: Place,
        feature_cache_bytes: int,
        checkpoints: StepStore | None,
        guard: LossGuard | None,
        watch: Watch | None,
    ) -> None:
        self._module, self._plan, self._stage, self._place = module, plan, stage, place
        self._checkpoints, self._guard, self._watch = checkpoints, guard or LossGuard(TrainConfig()), watch
        # asked for only now: sharding has put other parameters in the place of the model's own
        self._trained = {name: p for name, p in module.model.named_parameters() if p.requires_grad}
        self._optimizer = make_optimizer(self._trained, stage, module.model.config.model_type)
        self._cache = FeatureCache(feature_cache_bytes if module.feature_bytes else 0, module.feature_bytes)
        # sharded layers are gathered by all ranks together, so that all go through the same number of batches
        self._num_batches = math.ceil(math.ceil(plan.batch_size / place.world) / stage.micro_batch_size)
        self._course = Course()
        self._watched_at = time.monotonic()
        self._is_due = self._is_busy = self._is_leaving = self._is_ending = False
        self._saved_steps = -1

    def train(self, reader: Reader, on_step: Callable[[StepReport], None] | None) -> FitResult:
        """From the last saved step, or the first, to the end."""
        self._resume()
        result = FitResult([], first_step=len(self._course.losses))
        began, before = time.monotonic(), self._course.seconds
        try:
            while not self._has_ended:
                last = time.monotonic()
                for data in reader.steps(len(self._course.losses), self._cache):
                    waited = time.monotonic() - last
                    loss, grad_norm, note = self._step(data)
                    now = time.monotonic()
                    self._course.seconds = before + now - began
                    result.data_seconds += waited
                    result.num_masked += len(data.masked)
                    went_back = len(self._course.losses) <= data.step
                    if not went_back:
                        self._save_if_due()
                    if on_step is not None:
                        on_step(self._report(data, loss, grad_norm, (now - began, now - last, waited), note))
                    last = now
                    if went_back:
                        break
                    if self._is_ending and not self._has_ended:
                        self._halt()
        finally:
            if self._checkpoints is not None and (self._place.world == 1 or self._has_ended):
                self._checkpoints.settle(self._place)  # a rank that fails must not wait for the others
        result.losses, result.seconds = self._course.losses, self._course.seconds
        return result

    # --- a step ------------------------------------------------------------------------------------------------------

    def _step(self, data: StepData) -> tuple[float, float, str]:
        """Train on a step: its mean loss and the norm of its gradients, all ranks, and what is to be told of it.

        Afterwards the course is one step longer, or, when training has gone back, shorter. Raises StageFailed.
        """
        set_lr(self._optimizer, lr_factor(data.step, self._plan.num_steps, self._stage))
        planned = self._plan.num_supervised_of(data.step)
        total = self._gradients(data, self._place.world / planned)  # data-parallel gradients are averaged over ranks
        total, supervised, *wishes = self._place.sum(total, data.num_supervised, *self._wishes())
        self._hear(*wishes)
        loss = total / max(1.0, supervised)
        gradients = [p.grad for p in self._trained.values() if p.grad is not None]
        if supervised and supervised != planned:  # some images could not be decoded, and their samples do not count
            torch._foreach_mul_(gradients, planned / supervised)
        grad_norm = _norm(nn.utils.clip_grad_norm_(self._trained.values(), self._stage.max_grad_norm))
        note = self._judge(data.step, loss, grad_norm, bool(supervised))
        self._optimizer.zero_grad(set_to_none=True)
        return loss, grad_norm, note

    def _judge(self, step: int, loss: float, grad_norm: float, has_gradients: bool) -> str:
        """Apply the step's gradients, or not; what is to be told."""
        if step in self._guard.left_out_steps:
            self._course.losses.append(math.nan)
            return ""
        judgement = self._guard.judge(step, loss, grad_norm)
        if judgement.action == "stop":
            raise StageFailed(_stopped(judgement.message, step, self._plan))
        if judgement.action == "rollback":
            self._go_back()
            return judgement.message
        applied = judgement.action == "ok"
        if applied and has_gradients:
            self._optimizer.step()
            self._course.num_updates += 1
        self._course.losses.append(loss if applied else math.nan)
        return judgement.message

    def _gradients(self, data: StepData, scale: float) -> float:
        """Accumulate the step's gradients, times `scale`; this rank's summed loss."""
        total = torch.zeros((), dtype=torch.float32, device=self._place.device)
        missing = self._num_batches - len(data.batches)
        alone = self._place.world == 1
        for number, batch in enumerate([*data.batches, *(empty_batch() for _ in range(0 if alone else missing))]):
            reduce_at(self._module, number == self._num_batches - 1)
            with self._place.autocast():
                images, index = self._images(batch, data)
            with self._place.autocast() if alone else nullcontext():
                loss = self._module(batch.to(self._place.device), images, index)
            (loss * scale).backward()
            total += loss.detach()
        return float(total)

    def _images(self, batch: Batch, data: StepData) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The batch's distinct images (pixels, or a frozen tower's outputs) and where each is used."""
        if not batch.images:
            return None, None
        distinct = list(dict.fromkeys(batch.images))
        number = {key: i for i, key in enumerate(distinct)}
        device = self._place.device
        index = torch.tensor([number[key] for key in batch.images], device=device)
        if self._module.frozen_tower is not None:
            return frozen_features(self._module, self._cache, distinct, data.pixels, device), index
        return torch.stack([data.pixels[key] for key in distinct]).to(device), index

    def _report(
        self, data: StepData, loss: float, grad_norm: float, seconds: tuple[float, float, float], note: str
    ) -> StepReport:
        whole, step_seconds, data_seconds = seconds
        return StepReport(
            step=data.step + 1,
            num_steps=self._plan.num_steps,
            loss=loss,
            lr=self._stage.peak_lr * lr_factor(data.step, self._plan.num_steps, self._stage),
            grad_norm=grad_norm,
            num_items=sum(batch.num_items for batch in data.batches),
            num_tokens=sum(batch.num_tokens for batch in data.batches),
            num_images=sum(len(batch.images) for batch in data.batches),
            seconds=whole,
            step_seconds=step_seconds,
            data_seconds=data_seconds,
            note=note,
        )

    # --- saved state -------------------------------------------------------------------------------------------------

    def _resume(self) -> None:
        """The last save's state, where there is one; else a save of the beginning, where going back may need it."""
        if self._checkpoints is None:
            return
        found = self._checkpoints.load(self._trained, self._optimizer, self._place)
        if found is not None:
            self._course = found
            if found.guard:
                self._guard.restore(found.guard)
        elif self._guard.goes_back:
            self._save()
            self._checkpoints.settle(self._place)

    @property
    def _has_ended(self) -> bool:
        return len(self._course.losses) == self._plan.num_steps

    def _go_back(self) -> None:
        assert self._checkpoints is not None, "a guard that goes back needs saved state"
        self._checkpoints.settle(self._place)
        seconds = self._course.seconds
        found = self._checkpoints.load(self._trained, self._optimizer, self._place)
        assert found is not None
        self._course = found
        self._course.seconds = seconds
        self._guard.rolled_back(len(found.losses))

    def _save_if_due(self) -> None:
        if self._checkpoints is not None and self._is_due and not self._is_busy:
            self._save()

    def _save(self) -> None:
        assert self._checkpoints is not None
        self._course.guard, self._saved_steps = self._guard.state(), len(self._course.losses)
        self._checkpoints.start(self._trained, self._optimizer, self._course, self._place)

    def _halt(self) -> None:
        """Save this step, wait until it is written, end."""
        if self._checkpoints is not None:
            self._checkpoints.settle(self._place)
            if self._saved_steps != len(self._course.losses):
                self._save()
                self._checkpoints.settle(self._place)
        raise Halted

    # What ranks must agree on travels with the loss.

    def _wishes(self) -> tuple[float, float, float, float]:
        """(rank 0: save after this step, rank 0: look for notices, this rank: the last save is on its way, rank 0: end
        after this step).
        """
        busy = self._checkpoints is not None and self._checkpoints.is_busy
        if self._place.rank:
            return 0.0, 0.0, float(busy), 0.0
        due = self._checkpoints is not None and self._checkpoints.is_due(len(self._course.losses) + 1)
        looks = self._watch is not None and time.monotonic() - self._watched_at >= self._watch.every_seconds
        ends = looks and self._watch is not None and self._watch.is_ending()
        return float(due), float(looks), float(busy), float(ends)

    def _hear(self, due: float, looks: float, num_busy: float, ends: float) -> None:
        self._is_due, self._is_busy, self._is_ending = due > 0, num_busy > 0, ends > 0
        if looks and self._watch is not None:
            self._watched_at = time.monotonic()
            leaving = self._watch.is_leaving()
            self._is_due |= leaving and not self._is_leaving
            self._is_leaving = leaving


def _norm(norm: torch.Tensor) -> float:
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def _stopped(why: str, step: int, plan: PackPlan) -> str:
    names = [f"{k.source}/{k.shard}/{k.row}" for n in rank_slice(step, plan.batch_size, 0, 1) for k in plan.sequence(n)]
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"training stopped at {why} Samples of the step (source/shard/row): {shown}. They may be left out, too"
