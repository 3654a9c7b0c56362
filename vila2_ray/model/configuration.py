"""Configuration of the `vila` architecture: transformers' LLaVA with one field more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.models.llava.configuration_llava import LlavaConfig


@strict
class VilaConfig(LlavaConfig):
    """LLaVA's configuration plus `downsample_factor`.

    The defaults are VILA's (arXiv 2312.07533): SigLIP, layer −2, all patches. `image_seq_length` follows from the
    tower's grid and the factor, and is never taken from the caller.
    """

    if TYPE_CHECKING:
        vision_config: Any

    model_type = "vila"

    downsample_factor: int = 2
    vision_feature_select_strategy: Literal["default", "full"] = "full"
    vision_feature_layer: int | list[int] = -2

    def __post_init__(self, **kwargs: object) -> None:
        if self.vision_config is None:
            self.vision_config = {"model_type": "siglip_vision_model"}
        if isinstance(self.vision_config, dict):
            self.vision_config = {"model_type": "siglip_vision_model", **self.vision_config}
        super().__post_init__(**kwargs)
        if self.downsample_factor < 1:
            raise ValueError(f"downsample_factor = {self.downsample_factor}: must be 1 or greater")
        if self.vision_feature_select_strategy != "full":
            raise ValueError("vision_feature_select_strategy: a SigLIP tower has no class token to drop; use 'full'")
        self.image_seq_length = num_image_tokens(grid_side(self.vision_config), self.downsample_factor)


def grid_side(vision_config: PreTrainedConfig) -> int:
    """Patches along one side of the tower's (square) grid."""
    return int(vision_config.image_size) // int(vision_config.patch_size)


def num_image_tokens(side: int, factor: int) -> int:
    """Image tokens after space-to-channel; an odd side is padded: 27 patches, factor 2 → 14 × 14 = 196."""
    return (-(-side // factor)) ** 2
