"""The modules of a model that sharding and activation checkpointing wrap one by one, whatever the family."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn
from transformers import PreTrainedModel

from vila2_ray.errors import ConfigError
from vila2_ray.model.families import FAMILIES, part_of


class Blocks(NamedTuple):
    """Modules of one model, none inside another. Embeddings, norms and heads are in none of them."""

    language_layers: list[nn.Module]
    """Decoder layers, first to last."""
    vision_blocks: list[nn.Module]
    """The vision tower's transformer blocks, first to last."""
    connector: list[nn.Module]
    """What stands between tower and language model: one module, or several where it branches off several blocks."""


def blocks(model: PreTrainedModel) -> Blocks:
    """The blocks of a model of any family in model/families.py, also on the meta device.

    A part's blocks are its outermost list of modules, which all of transformers' towers and decoders have; so a LLaVA's
    tower may be SigLIP, CLIP or another. Raises ConfigError for a family that is not in the table.
    """
    model_type = model.config.model_type
    found: dict[str, list[nn.Module]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module):
            found.setdefault(part_of(f"{name}.", model_type), list(module))
    for part in ("language", "vision"):
        if part not in found:
            raise ConfigError("model_type", model_type, f"its {part} part holds no list of blocks; see model/blocks.py")
    prefixes = [prefix.rstrip(".") for prefix, part in FAMILIES[model_type].items() if part == "connector"]
    connector = []
    for prefix in prefixes:
        module = model.get_submodule(prefix)
        connector += list(module) if isinstance(module, nn.ModuleList) else [module]
    return Blocks(found["language"], found["vision"], connector)
