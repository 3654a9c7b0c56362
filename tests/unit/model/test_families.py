"""The table of families against the parameter names of the real classes (built on the meta device)."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, CLIPVisionConfig, LlavaConfig, PreTrainedModel

from vila2_ray.errors import ConfigError
from vila2_ray.model import register
from vila2_ray.model.blocks import blocks
from vila2_ray.model.families import FAMILIES, part_of


def on_meta(model_type: str) -> PreTrainedModel:
    """The family's default model, without weights."""
    register()
    # the default Idefics3 pads with a token outside of its own vocabulary
    large = {"text_config": {"model_type": "llama", "vocab_size": 128_256}}
    changes = large if model_type in ("idefics3", "smolvlm") else {}
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(AutoConfig.for_model(model_type, **changes))


def num_parameters(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_every_parameter_of_a_family_has_a_part_and_every_layer_is_a_block(model_type):
    model = on_meta(model_type)
    counted = dict.fromkeys(("vision", "connector", "language"), 0)
    for name, parameter in model.named_parameters():
        counted[part_of(name, model_type)] += parameter.numel()
    assert 0 < counted["connector"] < min(counted["vision"], counted["language"])
    assert counted["language"] > counted["vision"]

    found, vision = blocks(model), model.config.vision_config
    assert len(found.language_layers) == model.config.text_config.num_hidden_layers
    assert len(found.vision_blocks) == (getattr(vision, "num_hidden_layers", None) or vision.depth)
    assert num_parameters(*found.connector) == counted["connector"]
    assert 0.5 * counted["vision"] < num_parameters(*found.vision_blocks) <= counted["vision"]
    assert 0.5 * counted["language"] < num_parameters(*found.language_layers) < counted["language"]
    wrapped = [id(p) for m in (*found.language_layers, *found.vision_blocks, *found.connector) for p in m.parameters()]
    assert len(wrapped) == len(set(wrapped)), "a parameter is in two blocks, which would shard it twice"


def test_a_llava_with_another_tower_has_blocks_as_well():
    tower = CLIPVisionConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=5, num_attention_heads=2)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(LlavaConfig(vision_config=tower))
    assert len(blocks(model).vision_blocks) == 5


def test_the_longest_prefix_wins():
    assert part_of("model.visual.blocks.0.norm1.weight", "qwen2_vl") == "vision"
    assert part_of("model.visual.merger.mlp.0.weight", "qwen2_vl") == "connector"
    assert part_of("model.visual.deepstack_merger_list.2.norm.weight", "qwen3_vl") == "connector"


def test_unknown_names_are_refused_by_name():
    with pytest.raises(ConfigError, match="paligemma"):
        part_of("model.x", "paligemma")
    with pytest.raises(ConfigError, match="odd_head"):
        part_of("odd_head.weight", "vila")
