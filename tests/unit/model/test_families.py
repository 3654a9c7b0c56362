"""The table of families against the parameter names of the real classes (built on the meta device)."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from vila2_ray.errors import ConfigError
from vila2_ray.model import register
from vila2_ray.model.families import FAMILIES, part_of


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_every_parameter_of_a_family_has_a_part(model_type):
    register()
    # the default Idefics3 pads with a token outside of its own vocabulary
    large = {"text_config": {"model_type": "llama", "vocab_size": 128_256}}
    changes = large if model_type in ("idefics3", "smolvlm") else {}
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(model_type, **changes))
    parts = {name: part_of(name, model_type) for name, _ in model.named_parameters()}
    assert set(parts.values()) == {"vision", "connector", "language"}
    counted = dict.fromkeys(("vision", "connector", "language"), 0)
    for name, parameter in model.named_parameters():
        counted[parts[name]] += parameter.numel()
    assert counted["connector"] < min(counted["vision"], counted["language"])


def test_the_longest_prefix_wins():
    assert part_of("model.visual.blocks.0.norm1.weight", "qwen2_vl") == "vision"
    assert part_of("model.visual.merger.mlp.0.weight", "qwen2_vl") == "connector"


def test_unknown_names_are_refused_by_name():
    with pytest.raises(ConfigError, match="paligemma"):
        part_of("model.x", "paligemma")
    with pytest.raises(ConfigError, match="odd_head"):
        part_of("odd_head.weight", "vila")
