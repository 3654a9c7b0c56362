"""The training loop in plain torch: one process, or one rank of a world.

`fit` walks through the steps of a pack plan. Each step: this rank's micro-batches forward and backward, gradients
divided by the supervised tokens of the whole step, the loss judged, gradients clipped, AdamW, cosine. The same plan,
weights and stage give the same curve whatever the number of ranks and the micro-batch size, and after any interruption.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from transformers import PreTrainedModel

from vila2_ray.config import StageConfig
from vila2_ray.errors import ConfigError
from vila2_ray.train.checkpoint import StepStore
from vila2_ray.train.features import LossModule
from vila2_ray.train.feed import open_reader
from vila2_ray.train.guard import LossGuard
from vila2_ray.train.optimize import freeze
from vila2_ray.train.packplan import PackPlan
from vila2_ray.train.parallelize import Place, find_place
from vila2_ray.train.run import FitResult, Halted, RankRun, StepReport, Watch
from vila2_ray.train.shard import ActivationCheckpointing, ready
from vila2_ray.train.source import Source

__all__ = ["FitResult", "Halted", "StepReport", "Watch", "fit"]


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
    guard: LossGuard | None = None,
    watch: Watch | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    on_end: Callable[[LossModule], None] | None = None,
) -> FitResult:
    """Train `model` in place; only the parameters of `stage.trained` change.

    A model on the meta device is filled from the folder `weights`, after it was sharded. `checkpoints` keeps resumable
    state; without it the loop starts at step 0. `guard` judges the losses; by default one that is no number stops.
    `on_end` is given the trained model, on all ranks. Raises StageFailed when the guard says stop, naming the step and
    its samples, and ConfigError when a rank would have no sequence.
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
    reader = open_reader(
        plan, source,
        micro_batch_size=stage.micro_batch_size, pad_token_id=pad_token_id,
        image_token_id=int(model.config.image_token_id), rank=place.rank, world=place.world,
        flat=place.attention == "flash_attention_2",
    )  # fmt: skip
    run = RankRun(module, plan, stage, place, feature_cache_bytes, checkpoints, guard, watch)
    result = run.train(reader, on_step)
    model.eval().set_attn_implementation(attention_before)
    if on_end is not None:
        on_end(module)
    return result
