"""What is trained and how fast: frozen parts, parameter groups, the learning-rate schedule."""

from __future__ import annotations

import math

import torch
from torch import nn

from vila2_ray.config import StageConfig
from vila2_ray.model.families import part_of


def freeze(model: nn.Module, stage: StageConfig, model_type: str) -> dict[str, nn.Parameter]:
    """Let only the stage's parts take gradients; those parameters by name, in the model's order."""
    trained = {}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name, model_type) in stage.trained)
        if parameter.requires_grad:
            trained[name] = parameter
    return trained


def make_optimizer(trained: dict[str, nn.Parameter], stage: StageConfig, model_type: str) -> torch.optim.AdamW:
    """AdamW; each group's `peak_lr` is its own, and only matrices decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        factor = stage.vision_lr_factor if part_of(name, model_type) == "vision" else 1.0
        decay = stage.weight_decay if parameter.ndim >= 2 else 0.0
        groups.setdefault((stage.peak_lr * factor, decay), []).append(parameter)
    specs = [{"params": p, "lr": lr, "peak_lr": lr, "weight_decay": decay} for (lr, decay), p in groups.items()]
    return torch.optim.AdamW(specs, betas=(0.9, stage.adam_beta2), fused=True)


def lr_factor(step: int, num_steps: int, stage: StageConfig) -> float:
    """Share of the peak learning rate at a step (from 0): linear warm-up, then a cosine down to min_lr_share."""
    warmup = math.ceil(num_steps * stage.warmup_share)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, num_steps - warmup)
    return stage.min_lr_share + (1 - stage.min_lr_share) * 0.5 * (1 + math.cos(math.pi * progress))


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
