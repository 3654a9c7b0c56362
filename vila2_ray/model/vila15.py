"""Reads the folder that VILA-1.5 was published in (arXiv 2312.07533, github.com/NVlabs/VILA).

config.json     llm_cfg, vision_tower_cfg, mm_projector_cfg and the mm_… settings
llm/            a language model with its tokenizer
vision_tower/   a SigLIP tower
mm_projector/   the connector: a Sequential of space-to-channel (0), LayerNorm (1), Linear (2), GELU (3), Linear (4)
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vila2_ray.errors import CheckpointError
from vila2_ray.model.loading import check_checkpoint

if TYPE_CHECKING:
    import torch

_CONNECTOR = {"layers.1": "norm", "layers.2": "linear_1", "layers.4": "linear_2"}
_SETTINGS: dict[str, tuple[Any, ...]] = {
    "mm_vision_select_feature": ("cls_patch",),  # every output of the tower: SigLIP has no class token to drop
    "s2": (False, None),
}
"""Settings under which the published model is ours; None is a setting that is not there."""


@dataclass(frozen=True)
class Vila15:
    """The parts of a published folder."""

    vision: Path
    language: Path
    connector: dict[str, torch.Tensor]
    """By the names of `VilaMultiModalProjector`."""
    vision_feature_layer: int


def read_vila15(folder: Path) -> Vila15:
    """Find the parts and read the connector. Raises CheckpointError for another layout or another architecture."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not (folder / "config.json").is_file():
        raise CheckpointError(str(folder), "has no config.json", "Give the folder that holds llm/ and mm_projector/")
    config = _read(folder / "config.json")
    parts = {name: folder / name for name in ("llm", "vision_tower", "mm_projector")}
    if missing := [name for name, path in parts.items() if not path.is_dir()]:
        raise CheckpointError(str(folder), f"lacks {', '.join(missing)}", "It is not VILA-1.5's layout")
    for name, allowed in _SETTINGS.items():
        if config.get(name) not in allowed:
            problem = f"config.json says {name} = {config.get(name)!r}, which the vila architecture does not have"
            raise CheckpointError(str(folder), problem, f"It takes {allowed[0]!r}")
    kind = _read(check_checkpoint(parts["mm_projector"]) / "config.json").get("mm_projector_type")
    if kind != "mlp_downsample":
        raise CheckpointError(str(parts["mm_projector"]), f"is a {kind}", "Only mlp_downsample is read")
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(parts["mm_projector"].glob("*.safetensors")):
        try:
            weights |= load_file(file)
        except SafetensorError as error:
            raise CheckpointError(str(file), f"cannot be read: {error}") from error
    wanted = {f"{old}.{end}": f"{new}.{end}" for old, new in _CONNECTOR.items() for end in ("weight", "bias")}
    if set(weights) != set(wanted):
        problem = f"holds {', '.join(sorted(weights))}, not {', '.join(wanted)}"
        raise CheckpointError(str(parts["mm_projector"]), problem)
    connector = {wanted[name]: weight for name, weight in weights.items()}
    return Vila15(parts["vision_tower"], parts["llm"], connector, int(config.get("mm_vision_select_layer", -2)))


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise CheckpointError(str(file), f"is not JSON: {error}") from error
