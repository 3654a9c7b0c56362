"""A finished folder is proven to be served as trained; a tampered one is not."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, SiglipVisionConfig

from vila2_ray.config import EngineConfig
from vila2_ray.engines.choice import vllm_problem
from vila2_ray.errors import CheckpointError
from vila2_ray.model import build_processor, build_vila, load_model, load_processor
from vila2_ray.model.architecture import LANGUAGE_MODELS
from vila2_ray.recipes.tiny import BASE_FOLDER
from vila2_ray.recipes.tiny.tokenizer import build
from vila2_ray.train.proof import Answer, answers, check_served, difference

TOLD = Answer([5, 9], [{5: -0.1, 7: -3.0}, {9: -0.70, 8: -0.71}])


@pytest.mark.parametrize(
    ("served", "said"),
    [
        (TOLD, ""),
        (Answer([5, 9], [{5: -0.11, 6: -3.0}, {9: -0.70, 8: -0.71}]), ""),
        (Answer([5, 8], [{5: -0.1, 7: -3.0}, {9: -0.70, 8: -0.695}]), ""),
        (Answer([5, 9], [{5: -0.2, 7: -3.0}, {9: -0.70, 8: -0.71}]), r"token 1: id 5 .* -0\.100 .* -0\.200 by vLLM"),
        (Answer([7, 9], [{7: -0.1, 6: -3.0}, {9: -0.70, 8: -0.71}]), "token 1: id 7"),
        (Answer([6, 9], [{6: -0.1, 4: -3.0}, {9: -0.70, 8: -0.71}]), "token 1: id 5 .* id 6"),
        (Answer([5], [{5: -0.1, 7: -3.0}]), "2 tokens by transformers, 1 by vLLM"),
    ],
)
def test_only_what_is_as_likely_may_differ(served: Answer, said: str) -> None:
    found = difference(TOLD, served)
    assert bool(found) == bool(said)
    assert re.search(said, found)


@pytest.mark.skipif(bool(vllm_problem()), reason=vllm_problem())
@pytest.mark.slow
def test_vllm_serves_the_base_as_transformers_and_a_tampered_one_is_told(tmp_path: Path) -> None:
    expected = answers(load_model(BASE_FOLDER, torch.float32), load_processor(BASE_FOLDER))
    assert expected[0] != expected[1], "the probes must differ, or the image is not proven to arrive"
    engine = EngineConfig(kv_cache_gb=1)
    check_served(BASE_FOLDER, expected, engine)
    shutil.copytree(BASE_FOLDER, tmp_path / "tampered")
    weights = load_file(BASE_FOLDER / "model.safetensors")
    weights["model.multi_modal_projector.linear_2.bias"] += 0.5
    save_file(weights, tmp_path / "tampered" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"tampered.*probe 1, token 1: id \d+ with log-probability"):
        check_served(tmp_path / "tampered", expected, engine)
    (tmp_path / "tampered" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"cannot be served by vLLM.*no config\.json"):
        check_served(tmp_path / "tampered", expected, engine)


@pytest.mark.skipif(bool(vllm_problem()), reason=vllm_problem())
@pytest.mark.slow
@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_vllm_serves_a_vila_with_each_language_model(kind: str, tmp_path: Path) -> None:
    tokenizer = build()
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2,
        image_size=32, patch_size=8, vision_use_head=False,
    )  # fmt: skip
    language = AutoConfig.for_model(
        kind, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        head_dim=32, vocab_size=len(tokenizer), max_position_embeddings=128, initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model, tokenizer = build_vila(vision, language, tokenizer=tokenizer)
    for parameter in model.model.multi_modal_projector.parameters():
        if parameter.ndim == 2:
            parameter.data.mul_(8.0)  # so that images matter
    model.save_pretrained(tmp_path)
    build_processor(model.config, tokenizer).save_pretrained(tmp_path)
    expected = answers(load_model(tmp_path, torch.float32), load_processor(tmp_path))
    assert expected[0] != expected[1]
    check_served(tmp_path, expected)
