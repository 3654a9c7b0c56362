"""The training loop in plain torch: one process, or one rank of a world.

`fit` walks through the steps of a pack plan. Each step: this rank's micro-batches forward and backward, gradients
divided by the supervised tokens of the whole step and clipped, AdamW, cosine. The same plan, weights and stage give the
same curve whatever the number of ranks and the micro-batch size, and after any interruption.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from vila2_ray.config import StageConfig
from vila2_ray.errors import ConfigError, StageFailed
from vila2_ray.train.checkpoint import Course, StepStore
from vila2_ray.train.collate import Batch, empty_batch
from vila2_ray.train.features import FeatureCache, LossModule, frozen_features
from vila2_ray.train.feed import open_reader
from vila2_ray.train.optimize import freeze, lr_factor, make_optimizer, set_lr
from vila2_ray.train.packplan import PackPlan, rank_slice
from vila2_ray.train.parallelize import Place, find_place
from vila2_ray.train.reading import Reader, StepData
from vila2_ray.train.shard import ActivationCheckpointing, ready, reduce_at
from vila2_ray.train.source import Source


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


@dataclass
class FitResult:
    """The course of a stage, earlier runs of it included."""

    losses: list[float] = field(default_factory=list)
    """One per step."""
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
    """Notices that the machine may be taken away. `is_leaving` is called by all ranks at the same steps."""

    is_leaving: Callable[[], bool]
    every_seconds: float = 5.0


def fit(
    model: PreTrainedModel,
    plan: PackPlan,
    source: Source,
    stage: StageConfig,
    *,
    pad_token_id: int,
    place: Place | None = None,
    weights: str | Path | None = None,
    activation_checkpointing: ActivationCheckpointing = "none",
    compiles: bool = False,
    feature_cache_bytes: int = 2_000_000_000,
    checkpoints: StepStore | None = None,
    watch: Watch | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    on_end: Callable[[LossModule], None] | None = None,
) -> FitResult:
    """Train `model` in place; only the parameters of `stage.trained` change.

    A model on the meta device is filled from the folder `weights`, after it was sharded. `checkpoints` keeps resumable
    state; without it the loop starts at step 0. `on_end` is given the trained model, on all ranks. Raises StageFailed
    when the loss is not a number, naming the step and its samples, and ConfigError when a rank would have no sequence.
    """
    place = place or find_place()
    if plan.batch_size < place.world:
        raise ConfigError(
            "train.<stage>.batch_size", plan.batch_size, f"must be at least the number of workers, {place.world}"
        )
    freeze(model, stage, model.config.model_type)
    attention_before = model.config._attn_implementation
    model.set_attn_implementation(place.attention)
    module = LossModule(model.train(), "vision" in stage.trained, place.compute_dtype)
    ready(module, place, weights=weights, activation_checkpointing=activation_checkpointing, compiles=compiles)
    run = _Run(module, plan, stage, place, feature_cache_bytes, checkpoints, watch)
    reader = open_reader(
        plan, source,
        micro_batch_size=stage.micro_batch_size, pad_token_id=pad_token_id,
        image_token_id=int(model.config.image_token_id), rank=place.rank, world=place.world,
    )  # fmt: skip
    result = run.train(reader, on_step)
    model.eval().set_attn_implementation(attention_before)
    if on_end is not None:
        on_end(module)
    return result


class _Run:
    """One rank's way through the steps."""

    def __init__(
        self,
        module: LossModule,
        plan: PackPlan,
        stage: StageConfig,
        place: Place,
        feature_cache_bytes: int,
        checkpoints: StepStore | None,
        watch: Watch | None,
    ) -> None:
        self.module, self.plan, self.stage, self.place = module, plan, stage, place
        self.checkpoints, self.watch = checkpoints, watch
        # asked for only now: sharding has put other parameters in the place of the model's own
        self.trained = {name: p for name, p in module.model.named_parameters() if p.requires_grad}
        self.optimizer = make_optimizer(self.trained, stage, module.model.config.model_type)
        self.cache = FeatureCache(feature_cache_bytes if module.feature_bytes else 0, module.feature_bytes)
        self.course = Course()
        # sharded layers are gathered by all ranks together, so that all go through the same number of batches
        self._num_batches = math.ceil(math.ceil(plan.batch_size / place.world) / stage.micro_batch_size)
        self._nothing = empty_batch()
        self._watched_at = time.monotonic()
        self._is_leaving = False

    def train(self, reader: Reader, on_step: Callable[[StepReport], None] | None) -> FitResult:
        if self.checkpoints is not None:
            self.course = self.checkpoints.load(self.trained, self.optimizer, self.place) or Course()
        result = FitResult(self.course.losses, first_step=len(self.course.losses))
        began, before = time.monotonic(), self.course.seconds
        last = began
        try:
            for data in reader.steps(result.first_step, self.cache):
                waited = time.monotonic() - last
                result.data_seconds += waited
                loss, grad_norm = self._step(data)
                result.num_masked += len(data.masked)
                self.course.losses.append(loss)
                now = time.monotonic()
                self.course.seconds = before + now - began
                self._save_if_due()
                if on_step is not None:
                    on_step(self._report(data, loss, grad_norm, now - began, now - last, waited))
                last = now
        finally:
            if self.checkpoints is not None:
                self.checkpoints.finish(self.place)
        result.seconds = self.course.seconds
        return result

    def _step(self, data: StepData) -> tuple[float, float]:
        """Train on a step; its mean loss and the norm of its gradients, all ranks. Raises StageFailed."""
        factor = lr_factor(data.step, self.plan.num_steps, self.stage)
        set_lr(self.optimizer, factor)
        planned = self.plan.num_supervised_of(data.step)
        total = self._gradients(data, self.place.world / planned)  # data-parallel gradients are averaged over ranks
        total, supervised, *wishes = self.place.sum(total, data.num_supervised, *self._wishes())
        self._hear(*wishes)
        loss = total / max(1.0, supervised)
        if not math.isfinite(loss):
            raise StageFailed(_not_a_number(loss, data.step, self.plan))
        gradients = [p.grad for p in self.trained.values() if p.grad is not None]
        if supervised and supervised != planned:  # some images could not be decoded, and their samples do not count
            torch._foreach_mul_(gradients, planned / supervised)
        grad_norm = _norm(nn.utils.clip_grad_norm_(self.trained.values(), self.stage.max_grad_norm))
        if supervised:
            self.optimizer.step()
            self.course.num_updates += 1
        self.optimizer.zero_grad(set_to_none=True)
        return loss, grad_norm

    def _gradients(self, data: StepData, scale: float) -> float:
        """Accumulate the step's gradients, times `scale`; this rank's summed loss."""
        total = torch.zeros((), dtype=torch.float32, device=self.place.device)
        missing = self._num_batches - len(data.batches)
        for number, batch in enumerate([*data.batches, *[self._nothing] * missing]):
            reduce_at(self.module, number == self._num_batches - 1)
            with self.place.autocast():
                images, index = self._images(batch, data)
            with self.place.autocast() if self.place.world == 1 else nullcontext():
                loss = self.module(batch.to(self.place.device), images, index)
            (loss * scale).backward()
            total += loss.detach()
        return float(total)

    def _images(self, batch: Batch, data: StepData) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The batch's distinct images (pixels, or a frozen tower's outputs) and where each is used."""
        if not batch.images:
            return None, None
        distinct = list(dict.fromkeys(batch.images))
        number = {key: i for i, key in enumerate(distinct)}
        device = self.place.device
        index = torch.tensor([number[key] for key in batch.images], device=device)
        if self.module.frozen_tower is not None:
            return frozen_features(self.module, self.cache, distinct, data.pixels, device), index
        return torch.stack([data.pixels[key] for key in distinct]).to(device), index

    # --- saving, as all ranks agree on it: what each wishes travels with the loss -------------------------------------

    def _wishes(self) -> tuple[float, float, float]:
        """(rank 0: save after this step, rank 0: look for notices, this rank's part of the last save is written)."""
        written = self.checkpoints is not None and self.checkpoints.is_written
        if self.place.rank:
            return 0.0, 0.0, float(written)
        due = self.checkpoints is not None and self.checkpoints.is_due(len(self.course.losses) + 1)
        looks = self.watch is not None and time.monotonic() - self._watched_at >= self.watch.every_seconds
        return float(due), float(looks), float(written)

    def _hear(self, due: float, looks: float, num_written: float) -> None:
        self._is_due = due > 0
        if self.checkpoints is not None and self.checkpoints.is_busy and num_written == self.place.world:
            self.checkpoints.commit(self.place)
        if looks and self.watch is not None:
            self._watched_at = time.monotonic()
            leaving = self.watch.is_leaving()
            self._is_due |= leaving and not self._is_leaving
            self._is_leaving = leaving

    def _save_if_due(self) -> None:
        if self.checkpoints is not None and self._is_due and not self.checkpoints.is_busy:
            self.checkpoints.start(self.trained, self.optimizer, self.course, self.place)

    def _report(
        self, data: StepData, loss: float, grad_norm: float, seconds: float, step_seconds: float, data_seconds: float
    ) -> StepReport:
        return StepReport(
            step=data.step + 1,
            num_steps=self.plan.num_steps,
            loss=loss,
            lr=self.stage.peak_lr * lr_factor(data.step, self.plan.num_steps, self.stage),
            grad_norm=grad_norm,
            num_items=sum(batch.num_items for batch in data.batches),
            num_tokens=sum(batch.num_tokens for batch in data.batches),
            num_images=sum(len(batch.images) for batch in data.batches),
            seconds=seconds,
            step_seconds=step_seconds,
            data_seconds=data_seconds,
        )


def _norm(norm: torch.Tensor) -> float:
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def _not_a_number(loss: float, step: int, plan: PackPlan) -> str:
    names = [f"{k.source}/{k.shard}/{k.row}" for n in rank_slice(step, plan.batch_size, 0, 1) for k in plan.sequence(n)]
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return (
        f"training stopped at step {step + 1} of {plan.num_steps}: the loss is {loss}. Samples of the step "
        f"(source/shard/row): {shown}. A lower train.<stage>.peak_lr or a longer warm-up usually helps; or leave the "
        "samples out"
    )
