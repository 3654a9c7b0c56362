"""A model becomes ready to train on its place: activation checkpointing, compilation, FSDP2, weights.

Every repeated layer of language model and tower is a unit of its own, so is the connector; embeddings, norms and head
are the root's, and so is the tower of a family that cannot be run apart from it. Weights stay float32 and are gathered
in the compute dtype, gradients are reduced in float32. A tower that is run apart and not trained is not sharded: its
outputs are cached, so that ranks run it at different times.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
from transformers import PreTrainedModel

from vila2_ray.model.blocks import Blocks, blocks
from vila2_ray.train.features import LossModule
from vila2_ray.train.parallelize import Place
from vila2_ray.train.weights import fill

ActivationCheckpointing = Literal["none", "selective", "full"]

_KEPT_OPERATIONS = {
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
}
"""Selective: what is dear to compute is kept, the rest (norms, activations, rotations) is computed again."""


def ready(
    module: LossModule,
    place: Place,
    *,
    weights: str | Path | None = None,
    activation_checkpointing: ActivationCheckpointing = "none",
    compiles: bool = False,
) -> None:
    """Make `module` trainable on `place`, in place. `weights`: the folder that a model on the meta device is filled
    from, once it is sharded.
    """
    model = module.model
    parts = blocks(model)
    checkpoint_activations(model, activation_checkpointing)
    if compiles:
        for block in [*parts.language_layers, *parts.vision_blocks]:
            block.compile(dynamic=True)
    if place.world > 1:
        module.in_step = True
        _shard(module, parts, place)
    if weights is not None:
        fill(model, weights, place.device)
    else:
        module.to(place.device)


def checkpoint_activations(model: PreTrainedModel, how: ActivationCheckpointing) -> None:
    """Compute the layers' activations again in the backward pass: all of them (full) or the cheap ones (selective)."""
    if how == "none":
        model.gradient_checkpointing_disable()
        return
    arguments: dict[str, Any] = {"use_reentrant": False}
    if how == "selective":
        arguments["context_fn"] = partial(create_selective_checkpoint_contexts, _keep)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=arguments)


def reduce_at(module: nn.Module, is_last: bool) -> None:
    """Whether the next backward pass ends the step: copies of the model exchange gradients then only.

    Within a copy they are exchanged every time, for a whole copy of them would have to be kept otherwise.
    """
    if isinstance(module, FSDPModule):
        module.set_requires_all_reduce(is_last)
        module.set_is_last_backward(is_last)


def _keep(_context: Any, operation: Any, *_: Any, **__: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _KEPT_OPERATIONS else CheckpointPolicy.PREFER_RECOMPUTE


def _shard(module: LossModule, parts: Blocks, place: Place) -> None:
    tower = module.frozen_tower
    ignored = set(tower.parameters()) if tower is not None else set[nn.Parameter]()
    half = place.compute_dtype != torch.float32
    settings: dict[str, Any] = {
        "mesh": place.mesh(),
        "mp_policy": MixedPrecisionPolicy(
            param_dtype=place.compute_dtype if half else None, reduce_dtype=torch.float32 if half else None
        ),
    }
    # of a model that is run as a whole, a batch of text skips the tower: only what the root gathers is gathered anyway
    seen = [*parts.vision_blocks, *parts.connector] if module.is_split else []
    for unit in [*parts.language_layers, *seen]:
        if not ignored.issuperset(unit.parameters()):
            fully_shard(unit, **settings)
    fully_shard(module, **settings, ignored_params=ignored)
