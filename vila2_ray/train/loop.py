"""The training loop in plain torch: one process, or one rank of a world.

`fit` walks through the steps of a pack plan. Each step: this rank's micro-batches forward and backward, the loss
divided by the supervised tokens of the whole step, gradients clipped, AdamW, cosine. The same plan, weights and stage
give the same curve whatever the number of ranks and the micro-batch size, and after any interruption.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from vila2_ray.config import StageConfig
from vila2_ray.errors import ConfigError, StageFailed
from vila2_ray.train.collate import Batch
from vila2_ray.train.features import FeatureCache, LossModule, frozen_features
from vila2_ray.train.optimize import freeze, lr_factor, make_optimizer, set_lr
from vila2_ray.train.packplan import PackPlan, rank_slice
from vila2_ray.train.parallelize import Place, find_place
from vila2_ray.train.reading import Reader, StepData
from vila2_ray.train.source import Source

if TYPE_CHECKING:
    from vila2_ray.train.checkpoint import StepStore


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
    seconds: float
    """Since the loop began in this process."""


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


def fit(
    model: PreTrainedModel,
    plan: PackPlan,
    source: Source,
    stage: StageConfig,
    *,
    pad_token_id: int,
    place: Place | None = None,
    feature_cache_bytes: int = 2_000_000_000,
    checkpoints: StepStore | None = None,
    on_step: Callable[[StepReport], None] | None = None,
) -> FitResult:
    """Train `model` in place; only the parameters of `stage.trained` change.

    `checkpoints` keeps resumable state; without it the loop starts at step 0. Raises StageFailed when the loss is not a
    number, naming the step and its samples, and ConfigError when a rank would have no sequence.
    """
    place = place or find_place()
    if plan.batch_size < place.world:
        raise ConfigError(
            "train.<stage>.batch_size", plan.batch_size, f"must be at least the number of workers, {place.world}"
        )
    model_type = model.config.model_type
    trained = freeze(model, stage, model_type)
    attention_before = model.config._attn_implementation
    model.set_attn_implementation(place.attention)
    model.train().to(place.device)
    optimizer = make_optimizer(trained, stage, model_type)
    loss_module = LossModule(model, "vision" in stage.trained, place.compute_dtype)
    result = FitResult()
    if checkpoints is not None:
        result = checkpoints.load(trained, optimizer) or result
    runner = place.replicate(loss_module)
    cache = FeatureCache(feature_cache_bytes if not loss_module.trains_tower and loss_module.is_split else 0)
    reader = Reader(
        plan, source, stage.micro_batch_size, pad_token_id, int(model.config.image_token_id),
        place.rank, place.world,
    )  # fmt: skip
    began, before = time.monotonic(), result.seconds
    result.first_step = len(result.losses)
    for data in reader.steps(result.first_step, cache):
        factor = lr_factor(data.step, plan.num_steps, stage)
        set_lr(optimizer, factor)
        loss, num_supervised = _gradients(runner, loss_module, data, cache, place)
        if not math.isfinite(loss):
            raise StageFailed(_not_a_number(loss, data.step, plan))
        grad_norm = float(nn.utils.clip_grad_norm_(trained.values(), stage.max_grad_norm))
        if num_supervised:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        result.losses.append(loss)
        result.num_masked += len(data.masked)
        result.seconds = before + time.monotonic() - began
        if checkpoints is not None:
            checkpoints.save_if_due(trained, optimizer, result, place)
        if on_step is not None:
            items, tokens = sum(b.num_items for b in data.batches), sum(b.num_tokens for b in data.batches)
            lr = stage.peak_lr * factor
            seconds = time.monotonic() - began
            on_step(StepReport(data.step + 1, plan.num_steps, loss, lr, grad_norm, items, tokens, seconds))
    model.eval().set_attn_implementation(attention_before)
    return result


def _gradients(
    runner: nn.Module, module: LossModule, data: StepData, cache: FeatureCache, place: Place
) -> tuple[float, float]:
    """Accumulate the step's gradients. Returns the mean loss and the supervised tokens, both over all ranks."""
    (num_supervised,) = place.sum(data.num_supervised)
    scale = place.world / max(1.0, num_supervised)  # data-parallel gradients are averaged over ranks
    total = 0.0
    for number, batch in enumerate(data.batches):
        last = number == len(data.batches) - 1
        waits = (
            contextlib.nullcontext() if last or not isinstance(runner, DistributedDataParallel) else runner.no_sync()
        )
        with waits:
            with place.autocast():
                images, index = _images(module, batch, data, cache, place)
                loss = runner(batch.to(place.device), images, index)
            (loss * scale).backward()
        total += float(loss.detach())
    (total,) = place.sum(total)
    return total / max(1.0, num_supervised), num_supervised


def _images(
    module: LossModule, batch: Batch, data: StepData, cache: FeatureCache, place: Place
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The batch's distinct images (pixels, or a frozen tower's outputs) and where each is used."""
    if not batch.images:
        return None, None
    distinct = list(dict.fromkeys(batch.images))
    number = {key: i for i, key in enumerate(distinct)}
    index = torch.tensor([number[key] for key in batch.images], device=place.device)
    if module.is_split and not module.trains_tower:
        return frozen_features(module, cache, distinct, data.pixels, place.device), index
    return torch.stack([data.pixels[key] for key in distinct]).to(place.device), index


def _not_a_number(loss: float, step: int, plan: PackPlan) -> str:
    names = [f"{k.source}/{k.shard}/{k.row}" for n in rank_slice(step, plan.batch_size, 0, 1) for k in plan.sequence(n)]
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return (
        f"training stopped at step {step + 1} of {plan.num_steps}: the loss is {loss}. Samples of the step "
        f"(source/shard/row): {shown}. A lower train.<stage>.peak_lr or a longer warm-up usually helps; or leave the "
        "samples out"
    )
