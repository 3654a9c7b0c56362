"""Parameters by arithmetic against the real modules on the meta device, for every language model that can be built."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from vila2_ray.errors import ConfigError
from vila2_ray.model.architecture import LANGUAGE_MODELS, Architecture
from vila2_ray.model.configuration import VilaConfig
from vila2_ray.model.families import part_of
from vila2_ray.model.modeling import VilaForConditionalGeneration

VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
VISION |= {"image_size": 45, "patch_size": 9}
TEXT = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 8}
TEXT |= {"num_key_value_heads": 2, "vocab_size": 101, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def counted(config: VilaConfig) -> dict[str, int]:
    with torch.device("meta"):
        model = VilaForConditionalGeneration(config)
    found: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        found[part_of(name, "vila")] += parameter.numel()
    return dict(found)


@pytest.mark.parametrize("more", [{}, {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}])
@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_counts_are_those_of_the_modules(kind: str, more: dict[str, Any]) -> None:
    if kind in ("mistral", "qwen2"):
        more = {name: value for name, value in more.items() if name == "tie_word_embeddings"}
    if kind == "qwen3":
        more = {**{name: value for name, value in more.items() if name != "mlp_bias"}, "head_dim": 16}
    text = AutoConfig.for_model(kind, **TEXT, **more)
    config = VilaConfig(vision_config={**VISION, "vision_use_head": not more}, text_config=text, downsample_factor=2)
    found = Architecture.from_config(config.to_dict())
    assert found.parameters() == counted(config)
    assert found.image_tokens == config.image_seq_length == 9


def test_what_is_not_known_is_said() -> None:
    with pytest.raises(ConfigError, match=r"text_config\.model_type = 'mamba'"):
        Architecture.from_config({"vision_config": VISION, "text_config": {"model_type": "mamba"}})
    with pytest.raises(ConfigError, match=r"base\.architecture\.vision_config\.hidden_size = None"):
        Architecture.from_config({"text_config": TEXT})
    with pytest.raises(ConfigError, match="model_type = 'qwen2_vl'"):
        Architecture.from_config({"model_type": "qwen2_vl"})
