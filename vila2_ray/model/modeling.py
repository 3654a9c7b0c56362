"""The `vila` model: transformers' LLaVA with VILA's `mlp_downsample` connector (arXiv 2312.07533).

Both the inner and the outer class are subclassed, so that weights are saved under LLaVA's names
(`model.vision_tower`, `model.multi_modal_projector`, `model.language_model`, `lm_head`).
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional
from transformers.activations import ACT2FN
from transformers.models.llava.modeling_llava import LlavaForConditionalGeneration, LlavaModel

from vila2_ray.model.configuration import VilaConfig


def space_to_channel(patches: torch.Tensor, factor: int) -> torch.Tensor:
    """Fold factor × factor neighbouring patches of a square grid into one token.

    patches: [B, side², C] in row-major order. Returns [B, ceil(side/factor)², factor²·C]: tokens in column-major order,
    as VILA orders them, and within a token the patches row by row. Sides that the factor does not divide are padded
    with zeros at the end.
    """
    num_images, num_patches, channels = patches.shape
    side = math.isqrt(num_patches)
    if side * side != num_patches:
        raise ValueError(f"{num_patches} patches do not form a square grid")
    grid = patches.view(num_images, side, side, channels)
    if missing := -side % factor:
        grid = functional.pad(grid, (0, 0, 0, missing, 0, missing))
    blocks = (side + missing) // factor
    grid = grid.view(num_images, blocks, factor, blocks, factor, channels)
    return grid.permute(0, 3, 1, 2, 4, 5).reshape(num_images, blocks * blocks, factor * factor * channels)


class VilaMultiModalProjector(nn.Module):
    """`mlp_downsample`: space-to-channel → LayerNorm → Linear → GELU → Linear. [B, N, C] → [B, tokens, C_text]."""

    def __init__(self, config: VilaConfig) -> None:
        super().__init__()
        layers = config.vision_feature_layer
        num_layers = 1 if isinstance(layers, int) else len(layers)
        self.factor = config.downsample_factor
        width_in = config.vision_config.hidden_size * num_layers * self.factor**2
        width_out, bias = config.text_config.hidden_size, config.multimodal_projector_bias
        self.norm = nn.LayerNorm(width_in)
        self.linear_1 = nn.Linear(width_in, width_out, bias=bias)
        self.act = ACT2FN[config.projector_hidden_act]
        self.linear_2 = nn.Linear(width_out, width_out, bias=bias)

    def forward(self, image_features: torch.Tensor) -> torch.Tensor:
        tokens = self.norm(space_to_channel(image_features, self.factor))
        return self.linear_2(self.act(self.linear_1(tokens)))


class VilaModel(LlavaModel):
    """Tower, connector and language model, without the language-modelling head."""

    config_class = VilaConfig

    def __init__(self, config: VilaConfig) -> None:
        super().__init__(config)
        self.multi_modal_projector = VilaMultiModalProjector(config)
        self.post_init()


class VilaForConditionalGeneration(LlavaForConditionalGeneration):
    """VILA with its language-modelling head: what `AutoModelForImageTextToText` returns for a `vila` folder."""

    config_class = VilaConfig

    def __init__(self, config: VilaConfig) -> None:
        super().__init__(config)
        self.model = VilaModel(config)
        self.post_init()
