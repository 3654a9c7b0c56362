"""Small random `vila` models to test with: an even grid (4 × 4 patches) and an odd one (5 × 5)."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast, SiglipVisionConfig

from vila2_ray.model import build_processor, build_vila


def _vision_config(side: int) -> SiglipVisionConfig:
    return SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=side * 7,
        patch_size=7,
        vision_use_head=False,
    )


def _text_config(vocab_size: int) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=vocab_size,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


@pytest.fixture
def configs() -> tuple[SiglipVisionConfig, LlamaConfig]:
    """A tower with an even grid, and a language model of six words."""
    return _vision_config(4), _text_config(6)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """Six words, and no `<image>` yet."""
    words = ("<pad>", "<s>", "</s>", "<unk>", "a", "cat")
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.fixture(params=[4, 5], ids=["even", "odd"])
def vila(request, tokenizer):
    """(model, processor) of a random model, for both grids."""
    model, tokenizer = build_vila(_vision_config(request.param), _text_config(6), tokenizer=tokenizer)
    torch.nn.init.normal_(model.model.multi_modal_projector.linear_2.weight)  # so that images matter
    return model.eval(), build_processor(model.config, tokenizer)
