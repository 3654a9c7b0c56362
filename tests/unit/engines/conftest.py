"""Checkpoint folders of random weights: a `vila`, and a SmolVLM for the road that other families take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from vila2_ray.config import SamplingConfig
from vila2_ray.engines.base import GenerationRequest

MakeRequests = Callable[..., list[GenerationRequest]]


@pytest.fixture(scope="session")
def vila_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32-pixel images, 4 image tokens, weights large enough that answers differ from image to image."""
    from transformers import LlamaConfig, SiglipVisionConfig

    from vila2_ray.model.loading import build_vila
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
    folder = tmp_path_factory.mktemp("vila")
    model.save_pretrained(folder)
    build_processor(model.config, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_requests() -> MakeRequests:
    """`make_requests(number, prompts=…, **sampling)`: that many images, each asked with every prompt."""

    def make(number: int, prompts: tuple[str, ...] = ("describe",), **sampling: float) -> list[GenerationRequest]:
        settings = SamplingConfig(**{"max_tokens": 12, **sampling})  # type: ignore[arg-type]
        images = [Image.effect_noise((40, 28), 20 + 7 * n).convert("RGB") for n in range(number)]
        tinted = [
            Image.blend(im, Image.new("RGB", im.size, (n * 37 % 256, n * 91 % 256, 60)), 0.6)
            for n, im in enumerate(images)
        ]
        return [
            GenerationRequest((n, k), f"image-{n}", tinted[n], prompt, 1000 * n + k, settings)
            for n in range(number)
            for k, prompt in enumerate(prompts)
        ]

    return make
