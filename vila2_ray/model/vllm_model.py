"""LLaVA and `vila` for vLLM: loaded as `save_pretrained` wrote them; `vila` has the `mlp_downsample` connector.

Imported only by vLLM, through `vllm_plugin`.
"""

from __future__ import annotations

import re

from vllm.config import VllmConfig
from vllm.model_executor.models.llava import (
    LlavaDummyInputsBuilder,
    LlavaForConditionalGeneration,
    LlavaMultiModalProcessor,
    LlavaProcessingInfo,
)
from vllm.model_executor.models.utils import WeightsMapper
from vllm.multimodal import MULTIMODAL_REGISTRY

from vila2_ray.model.configuration import VilaConfig, grid_side, num_image_tokens
from vila2_ray.model.modeling import VilaMultiModalProjector

_NAMES = LlavaForConditionalGeneration.hf_to_vllm_mapper | WeightsMapper(
    orig_to_new_regex={
        # CLIP and SigLIP towers as transformers 5 names them; vLLM has one module more around them
        re.compile(r"^(model\.)?vision_tower\.(?=embeddings|encoder|pre_layrnorm|post_layernorm)"): (
            "vision_tower.vision_model."
        )
    }
)


class LlavaOfTransformers5(LlavaForConditionalGeneration):
    """vLLM's LLaVA, which in 0.29 knows only the names under which transformers 4 saved a tower."""

    hf_to_vllm_mapper = _NAMES


class VilaProcessingInfo(LlavaProcessingInfo):
    """LLaVA's, with the number of tokens that the connector leaves of an image."""

    def get_hf_config(self) -> VilaConfig:
        return self.ctx.get_hf_config(VilaConfig)

    def get_num_image_tokens(self, *, image_width: int, image_height: int) -> int:
        config = self.get_hf_config()
        return num_image_tokens(grid_side(config.vision_config), config.downsample_factor)


@MULTIMODAL_REGISTRY.register_processor(
    LlavaMultiModalProcessor, info=VilaProcessingInfo, dummy_inputs=LlavaDummyInputsBuilder
)
class VilaForConditionalGeneration(LlavaForConditionalGeneration):
    """vLLM's LLaVA with VILA's connector, which is small enough to be on every tensor-parallel rank as a whole."""

    hf_to_vllm_mapper = _NAMES

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        with self._mark_tower_model(vllm_config, "image"):
            self.multi_modal_projector = VilaMultiModalProjector(vllm_config.model_config.hf_config)

    def get_num_mm_encoder_tokens(self, num_image_tokens: int) -> int:
        """Patches before space-to-channel, for as many images as `num_image_tokens` are."""
        side = grid_side(self.config.vision_config)
        return num_image_tokens // int(self.config.image_seq_length) * side**2

    def get_num_mm_connector_tokens(self, num_vision_tokens: int) -> int:
        side = grid_side(self.config.vision_config)
        return num_vision_tokens // side**2 * int(self.config.image_seq_length)
