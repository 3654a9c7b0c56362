"""A SigLIP checkpoint of random weights: 32-pixel images, texts of 24 tokens."""

from __future__ import annotations

from pathlib import Path


def write_siglip(folder: Path) -> Path:
    import torch
    from transformers import SiglipConfig, SiglipModel, SiglipProcessor
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    from vila2_ray.recipes.tiny.tokenizer import build

    tokenizer = build()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {
        **sizes,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 24,
        "pad_token_id": tokenizer.pad_token_id,
    }
    torch.manual_seed(0)
    model = SiglipModel(SiglipConfig(text_config=text, vision_config={**sizes, "image_size": 32, "patch_size": 8}))
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            parameter.data.mul_(4.0)  # so that texts and images differ in their features
    model.save_pretrained(folder)
    images = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    SiglipProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return folder
