"""A `vila` checkpoint of random weights: 32-pixel images, 4 image tokens, some 60,000 parameters."""

from __future__ import annotations

from pathlib import Path


def write_vila(folder: Path) -> Path:
    """Weights are so large that answers differ from image to image."""
    from transformers import LlamaConfig, SiglipVisionConfig

    from vila2_ray.model.building import build_vila
    from vila2_ray.model.processor import build_processor
    from vila2_ray.recipes.tiny.tokenizer import build

    tokenizer = build()
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, image_size=32, patch_size=8
    )
    language = LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=128,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.3,
    )
    model, tokenizer = build_vila(vision, language, tokenizer=tokenizer)
    for parameter in model.model.multi_modal_projector.parameters():
        if parameter.ndim == 2:
            parameter.data.mul_(8.0)
    model.save_pretrained(folder)
    build_processor(model.config, tokenizer).save_pretrained(folder)
    return folder
