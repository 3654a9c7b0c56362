"""What a finished step is told to trackers as: loss and gradient, rates, waiting, utilisation, memory."""

from __future__ import annotations

import resource
import sys
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import torch

from vila2_ray.config import Part
from vila2_ray.model.families import part_of
from vila2_ray.train.throughput import ModelShape, PartShape, peak_flops

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from vila2_ray.train.loop import StepReport
    from vila2_ray.train.parallelize import Place

_LOOKED_UP = ("position_embedding", "class_embedding")
"""Parameters of a tower that nothing is multiplied with."""


class StepFigures:
    """Makes the figures of one rank's steps. Rates are of all ranks, taken as alike: their sequences are."""

    def __init__(self, shape: ModelShape | None, trained: Collection[Part], place: Place) -> None:
        """`shape` None: the model's work is not known, and so no utilisation is told."""
        self._shape, self._trained, self._place = shape, tuple(trained), place
        name = torch.cuda.get_device_name(place.device) if place.device.type == "cuda" else ""
        self._peak = peak_flops(name)

    def __call__(self, report: StepReport) -> dict[str, float]:
        """Name → value. Seconds, shares in [0, 1], gigabytes (10⁹)."""
        seconds = max(report.step_seconds, 1e-9)
        world = self._place.world
        figures = {
            "train/loss": report.loss,
            "train/lr": report.lr,
            "train/grad_norm": report.grad_norm,
            "speed/tokens_per_second": world * report.num_tokens / seconds,
            "speed/samples_per_second": world * report.num_items / seconds,
            "speed/images_per_second": world * report.num_images / seconds,
            "speed/step_seconds": report.step_seconds,
            "speed/data_wait_share": report.data_seconds / seconds,
            "memory/peak_gb": peak_memory_bytes(self._place.device) / 1e9,
        }
        if self._shape is not None and self._peak is not None:
            flops = self._shape.step_flops(self._trained, report.num_tokens, report.num_items, report.num_images)
            figures["speed/mfu"] = flops / seconds / self._peak
        return figures


def peak_memory_bytes(device: torch.device) -> int:
    """Most that was allocated on a GPU so far; on a processor, the most that this process has had resident."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def model_shape(model: PreTrainedModel) -> ModelShape | None:
    """What the work of a model is counted from; None for a family whose images take no fixed number of tokens.

    Also of a model on the meta device, or sharded.
    """
    config: Any = model.config
    vision, language = getattr(config, "vision_config", None), getattr(config, "text_config", None)
    tokens = getattr(config, "image_seq_length", None)
    side, patch = (getattr(vision, name, None) for name in ("image_size", "patch_size"))
    if not (language and isinstance(tokens, int) and isinstance(side, int) and isinstance(patch, int)):
        return None
    counts = {"vision": 0, "connector": 0, "language": 0}
    embedding = model.get_input_embeddings().weight
    head = model.get_output_embeddings()
    is_tied = head is not None and head.weight is embedding
    for name, parameter in model.named_parameters():
        is_looked_up = parameter is embedding and not is_tied
        if not is_looked_up and not any(part in name for part in _LOOKED_UP):
            counts[part_of(name, config.model_type)] += parameter.numel()
    return ModelShape(
        vision=_stack(counts["vision"], vision),
        connector=PartShape(counts["connector"]),
        language=_stack(counts["language"], language),
        patches_per_image=(side // patch) ** 2,
        tokens_per_image=tokens,
    )


def _stack(num_parameters: int, config: Any) -> PartShape:
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return PartShape(num_parameters, config.num_hidden_layers, heads * size)
