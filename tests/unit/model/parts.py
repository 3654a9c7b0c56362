"""Folders of small random towers and language models to build from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}


def write_tower(folder: Path, whole: bool = False, side: int = 5, dtype: torch.dtype = torch.float32) -> Any:
    """A SigLIP tower of side × side patches, alone or beside a text model; the tower."""
    torch.manual_seed(1)
    vision = {**SIZES, "image_size": 7 * side, "patch_size": 7}
    if whole:
        model = SiglipModel(SiglipConfig(vision_config=vision, text_config={**SIZES, "vocab_size": 9})).to(dtype)
        model.save_pretrained(folder)
        return model.vision_model
    tower = SiglipVisionModel(SiglipVisionConfig(**vision)).to(dtype)
    tower.save_pretrained(folder)
    return tower


def write_language(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    kind: str = "llama",
    dtype: torch.dtype = torch.float32,
    **more: Any,
) -> PreTrainedModel:
    """A language model of six words with its tokenizer; the model."""
    settings = {
        **SIZES, "num_key_value_heads": 1, "vocab_size": 6, "initializer_range": 0.3,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 64,
    }  # fmt: skip
    torch.manual_seed(2)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**settings, **more})).to(dtype)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model
