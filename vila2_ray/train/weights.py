"""Models that are built without memory and filled, once sharded, each rank reading from disk no more than it holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from vila2_ray.errors import CheckpointError
from vila2_ray.model.loading import check_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def meta_model(folder: str | Path) -> PreTrainedModel:
    """The image-text-to-text model of a folder, in float32 on the meta device: shapes and names, no weights.

    Raises CheckpointError for what `check_checkpoint` refuses and for families that need remote code.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText

    from vila2_ray.model.registration import register

    path = check_checkpoint(folder)
    register()
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            return AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    except (ValueError, KeyError) as error:
        raise CheckpointError(str(folder), f"is not an image-text-to-text model: {error}") from error


@torch.no_grad()
def fill(model: PreTrainedModel, folder: str | Path, device: torch.device) -> None:
    """Give a meta model, sharded or not, memory on `device` and the folder's weights, a slice at a time.

    Raises CheckpointError for weights that do not fill the model, and for old layouts that need more than new names.
    """
    model.to_empty(device=device)
    model.tie_weights()
    _compute_buffers(model)
    targets: dict[str, torch.Tensor] = dict(model.state_dict(keep_vars=True))
    named = _Renaming(model, targets)
    filled: set[int] = set()
    for file in sorted(check_checkpoint(folder).glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            for key in weights.keys():  # noqa: SIM118
                target = targets.get(named(key, folder))
                if target is not None:
                    _copy(target, weights.get_slice(key), str(folder), key)
                    filled.add(id(target))
    missing = [name for name, target in targets.items() if id(target) not in filled]
    if missing:
        raise CheckpointError(
            str(folder), f"lacks weights of its own architecture ({', '.join(sorted(missing)[:3])} …)"
        )


def _copy(target: torch.Tensor, stored: Any, folder: str, key: str) -> None:
    """The stored tensor, or this rank's slice of it, into `target`."""
    if list(target.shape) != stored.get_shape():
        raise CheckpointError(folder, f"holds {key} of shape {stored.get_shape()}, not {list(target.shape)}")
    if not isinstance(target, DTensor):
        target.copy_(stored[:] if target.ndim else torch.tensor(stored[...]))
        return
    shape, offset = compute_local_shape_and_global_offset(target.shape, target.device_mesh, target.placements)
    if all(shape):
        here = tuple(slice(start, start + length) for start, length in zip(offset, shape, strict=True))
        target.to_local().copy_(stored[here])


class _Renaming:
    """Names in a file → names in memory, by transformers' own table of old layouts."""

    def __init__(self, model: PreTrainedModel, targets: dict[str, torch.Tensor]) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightRenaming

        transforms = get_model_conversion_mapping(model)
        self._renamings = [t for t in transforms if isinstance(t, WeightRenaming)]
        self._converters = [t for t in transforms if not isinstance(t, WeightRenaming)]
        self._prefix, self._targets = model.base_model_prefix, targets

    def __call__(self, key: str, folder: str | Path) -> str:
        from transformers.core_model_loading import rename_source_key

        name, converted = rename_source_key(key, self._renamings, self._converters, self._prefix, self._targets)
        if converted is not None:
            raise CheckpointError(
                str(folder),
                f"holds {key} in an older layout",
                "Load it with transformers' from_pretrained and save it again with save_pretrained",
            )
        return name


def _compute_buffers(model: PreTrainedModel) -> None:
    """Rotary frequencies, position numbers and the like are in no file: every module computes its own again."""
    for parameter in model.parameters():
        parameter._is_hf_initialized = True  # transformers then leaves it alone
    for module in model.modules():
        if isinstance(module, nn.Module):
            module._is_hf_initialized = False
    model.initialize_weights()
