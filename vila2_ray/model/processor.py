"""The processor of a `vila` checkpoint: transformers' own `LlavaProcessor`; loading it needs none of our code."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase
from transformers.models.llava.processing_llava import LlavaProcessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from vila2_ray.model.configuration import VilaConfig, grid_side, num_image_tokens

IMAGE_TOKEN = "<image>"


def build_processor(
    config: VilaConfig,
    tokenizer: PreTrainedTokenizerBase,
    chat_template: str | None = None,
    normalization: dict[str, list[float]] | None = None,
) -> LlavaProcessor:
    """A `LlavaProcessor` that writes as many `<image>` placeholders as the connector gives tokens.

    LlavaProcessor counts (image // patch)² + additional. With `patch_size` × factor as its patch this is right for
    grids that the factor divides; for the others `num_additional_image_tokens` adds the padded row and column.
    `chat_template` defaults to the tokenizer's own, `normalization` (image_mean and image_std, by channel) to SigLIP's.
    Raises ValueError when the tokenizer has no `<image>` token of its own.
    """
    if tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) != config.image_token_index:
        raise ValueError(f"the tokenizer's id of {IMAGE_TOKEN} must be image_token_index = {config.image_token_index}")
    side = int(config.vision_config.image_size)
    patch = int(config.vision_config.patch_size) * config.downsample_factor
    image_processor = SiglipImageProcessorPil(
        size={"height": side, "width": side},
        crop_size={"height": side, "width": side},  # no crop is done; LlavaProcessor reads it to count tokens
        **{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], **(normalization or {})},
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=patch,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        chat_template=chat_template or tokenizer.chat_template,
        num_additional_image_tokens=num_image_tokens(grid_side(config.vision_config), config.downsample_factor)
        - (side // patch) ** 2,
    )
