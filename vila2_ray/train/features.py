"""The model as the loop sees it: a batch in, the summed loss out; and the cache of a frozen tower's outputs.

A LLaVA-like model is split after its vision tower, so that the tower runs once per image and, when it is frozen, once
per stage. Other families go through their own forward pass, tower included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from vila2_ray.model.families import part_of
from vila2_ray.train.collate import Batch
from vila2_ray.train.loss import summed_cross_entropy
from vila2_ray.train.source import ImageKey

_SPLIT = ("vila", "llava")
"""Families whose tower can be run apart from the rest."""


class LossModule(nn.Module):
    """Wraps the model so that one forward call gives the loss: what sharding needs."""

    def __init__(self, model: PreTrainedModel, trains_tower: bool, compute_dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.is_split = model.config.model_type in _SPLIT
        self.trains_tower = trains_tower
        self.compute_dtype = compute_dtype
        self.in_step = False
        """Whether other ranks run the same layers: then every batch passes through connector and tower, and one
        without images does so with a blank one that counts for nothing."""

    @property
    def frozen_tower(self) -> nn.Module | None:
        """The tower, where it is run apart from the rest and not trained."""
        return None if self.trains_tower or not self.is_split else cast(Any, self.model.model).vision_tower

    def forward(
        self,
        batch: Batch,
        images: torch.Tensor | None,
        image_index: torch.Tensor | None,
        logits_only: bool = False,
    ) -> torch.Tensor:
        """Sum of the cross-entropy over the batch's supervised tokens, float32; or the logits [N, V] they come from.

        `images`: of each distinct image the pixels [n, 3, H, W], or, when the model is split and its tower frozen, the
        tower's output [n, patches, C]. `image_index` [len(batch.images)] picks one for every image of the batch.
        """
        inner: Any = self.model.model
        packed = {"attention_mask": self._mask(batch), "position_ids": batch.position_ids}
        if not self.is_split:
            pixels = None if images is None or image_index is None else images[image_index]
            hidden = inner(input_ids=batch.input_ids, pixel_values=pixels, use_cache=False, **packed).last_hidden_state
            if self.in_step:
                hidden = hidden + 0 * sum(parameter.sum() for parameter in self._perhaps_unseen())
        else:
            embeds = self.model.get_input_embeddings()(batch.input_ids)
            if images is not None and image_index is not None:
                features = self.encode(images) if self.trains_tower else images
                seen = inner.multi_modal_projector(features)[image_index].flatten(0, 1)
                flat = embeds.flatten(0, 1).index_copy(0, batch.image_positions, seen.to(embeds.dtype))
                embeds = flat.view_as(embeds)
            elif self.in_step:
                embeds = embeds + 0 * inner.multi_modal_projector(self._blank(embeds)).sum()
            hidden = inner.language_model(inputs_embeds=embeds, use_cache=False, **packed).last_hidden_state
        predicting = hidden.flatten(0, 1)[batch.predictors]
        logits = self.model.get_output_embeddings()(predicting)
        return logits if logits_only else summed_cross_entropy(logits, batch.targets)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """[n, 3, H, W] → the tower's output [n, patches, C] as the connector takes it."""
        inner: Any = self.model.model
        layers = self.model.config.vision_feature_layer
        states = inner.vision_tower(pixels, output_hidden_states=True).hidden_states
        if isinstance(layers, int):
            layers = [layers]
        skip = 1 if self.model.config.vision_feature_select_strategy == "default" else 0  # the class token
        return torch.cat([states[layer][:, skip:] for layer in layers], dim=-1)

    @property
    def feature_bytes(self) -> int:
        """Of one image's output of the tower in the compute dtype, at most; 0 where it is not run apart."""
        if self.frozen_tower is None:
            return 0
        vision, layers = self.model.config.vision_config, self.model.config.vision_feature_layer
        width = vision.hidden_size * (1 if isinstance(layers, int) else len(layers))
        return ((vision.image_size // vision.patch_size) ** 2 + 1) * width * self.compute_dtype.itemsize

    def _perhaps_unseen(self) -> list[nn.Parameter]:
        """Trained parameters that some batches do not reach: ranks exchange gradients only of what all have one of."""
        kind = self.model.config.model_type
        named = self.model.named_parameters()
        return [p for name, p in named if p.requires_grad and part_of(name, kind) != "language"]

    def _blank(self, like: torch.Tensor) -> torch.Tensor:
        """What the connector takes of one empty image."""
        vision = self.model.config.vision_config
        if self.trains_tower:
            return self.encode(like.new_zeros(1, vision.num_channels, vision.image_size, vision.image_size))
        layers = self.model.config.vision_feature_layer
        width = vision.hidden_size * (1 if isinstance(layers, int) else len(layers))
        return like.new_zeros(1, (vision.image_size // vision.patch_size) ** 2, width)

    def _mask(self, batch: Batch) -> torch.Tensor | None:
        mask = batch.attention_mask
        if mask is None or self.model.config._attn_implementation == "sdpa":
            return mask
        return torch.zeros_like(mask, dtype=torch.float32).masked_fill(~mask, torch.finfo(torch.float32).min)


class FeatureCache:
    """Outputs of a frozen tower by image, up to a number of bytes; what came first stays.

    Nothing is evicted: epochs repeat the same images, and evicting the oldest would lose each one just before it is
    used.
    """

    def __init__(self, max_bytes: int, bytes_each: int = 0) -> None:
        """`bytes_each`: of one image's features, where that is known before there are any."""
        self._max_bytes, self._bytes, self._bytes_each = max_bytes, 0, bytes_each
        self._features: dict[ImageKey, torch.Tensor] = {}

    def __contains__(self, key: object) -> bool:
        return key in self._features

    def __len__(self) -> int:
        return len(self._features)

    def holds(self, num_images: int) -> bool:
        """Whether so many images are sure to have room together."""
        return 0 < self._bytes_each * num_images <= self._max_bytes

    def get(self, key: ImageKey) -> torch.Tensor | None:
        return self._features.get(key)

    def put(self, key: ImageKey, features: torch.Tensor) -> None:
        """Keep [patches, C] if there is room."""
        size = features.numel() * features.element_size()
        if key not in self._features and self._bytes + size <= self._max_bytes:
            self._features[key] = features.clone()
            self._bytes += size


def frozen_features(
    module: LossModule,
    cache: FeatureCache,
    keys: Sequence[ImageKey],
    pixels: dict[ImageKey, torch.Tensor],
    device: torch.device,
) -> torch.Tensor:
    """[len(keys), patches, C] in the compute dtype, from the cache or the tower. `pixels` holds what the cache lacks.

    Rounding to the compute dtype happens with and without a hit, so that caching never changes the loss.
    """
    missing = [key for key in keys if key not in cache]
    made: dict[ImageKey, torch.Tensor] = {}
    if missing:
        with torch.no_grad():
            encoded = module.encode(torch.stack([pixels[key] for key in missing]).to(device)).to(module.compute_dtype)
        for key, features in zip(missing, encoded, strict=True):
            made[key] = features
            cache.put(key, features)
    found = [made[key] if key in made else cache.get(key) for key in keys]
    return torch.stack([features for features in found if features is not None])
