"""The committed base checkpoint, and the pretraining that makes one."""

from __future__ import annotations

import random

import pytest
import torch
from PIL import Image, ImageDraw

from vila2_ray.model import load_model, load_processor
from vila2_ray.recipes.tiny import BASE_FOLDER, base, language, tokenizer, tower, world


@pytest.fixture(scope="module")
def model():
    return load_model(BASE_FOLDER)


def test_the_committed_base_is_a_small_safetensors_folder(model):
    files = list(BASE_FOLDER.iterdir())
    assert sum(file.stat().st_size for file in files) <= 12 * 2**20
    assert {file.suffix for file in files} <= {".safetensors", ".json", ".jinja"}
    assert model.dtype == torch.bfloat16
    assert model.config.image_seq_length == language.CELLS**2 == 16


def test_its_processor_is_what_the_code_builds(model):
    processor = load_processor(BASE_FOLDER)
    assert processor.tokenizer.get_vocab() == tokenizer.build().get_vocab()
    content = [{"type": "image"}, {"type": "text", "text": world.TINY_PROMPTS["detailed"]}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    assert prompt == "<s><image>describe the image in detail. : "
    inputs = processor(images=Image.new("RGB", (96, 96)), text=prompt, return_tensors="pt")
    assert inputs["input_ids"][0, :18].tolist() == [1, *[4] * 16, inputs["input_ids"][0, 17]]
    assert inputs["pixel_values"].shape == (1, 3, 96, 96)


def test_its_language_model_reads_grids(model):
    causal = language.LlamaForCausalLM(language.config(tokenizer.build()))
    causal.model.load_state_dict({k: v.float() for k, v in model.model.language_model.state_dict().items()})
    causal.tie_weights()
    tokens, captions = language.score(causal.eval(), tokenizer.build(), 100)
    assert tokens > 0.9
    assert captions > 0.5


def test_a_base_is_assembled_from_its_parts_and_a_seed():
    tiny = tokenizer.build()
    parts = (
        tower.SiglipVisionModel(tower.CONFIG).state_dict(),
        language.LlamaForCausalLM(language.config(tiny)).state_dict(),
    )
    one, same, other = (base.assemble(*parts, seed=seed) for seed in (0, 0, 1))
    connectors = [vila.model.multi_modal_projector.linear_1.weight for vila in (one, same, other)]
    assert torch.equal(connectors[0], connectors[1])
    assert not torch.equal(connectors[0], connectors[2])
    weight = one.model.language_model.embed_tokens.weight
    assert torch.equal(weight, parts[1]["model.embed_tokens.weight"].bfloat16())
    assert one.lm_head.weight is weight


def test_labels_of_patches():
    truth = {
        "objects": [{"name": "red apple", "box": [0, 0, 250, 250]}],
        "words": [{"text": "stop", "box": [500, 880, 999, 999]}],
    }
    labels = tower.patch_labels(truth).reshape(8, 8)
    assert labels[:2, :2].tolist() == [[tower.LABELS["red apple"]] * 2] * 2
    assert (labels[7, 4:] == tower.LABELS["stop"]).all()
    assert (labels > 0).sum() == 8


def test_a_grid_says_what_lies_in_which_cell_columns_first():
    tiny = tokenizer.build()
    truth = {"objects": [{"name": "soccer ball", "size": "large", "place": "bottom left"}], "words": []}
    grid = language.grid(truth, random.Random(0), tiny, noise=0.0)
    soccer, ball, empty = tiny.convert_tokens_to_ids(["soccer", "ball", "empty"])
    assert grid[3, soccer] == grid[3, ball] > 0.9  # column 0, row 3
    assert grid[12, soccer] == 0  # column 3, row 0
    assert torch.allclose(grid[:, soccer] + grid[:, empty], torch.ones(16))


def test_a_few_steps_of_both_pretrainings_run(monkeypatch):
    disc = Image.new("RGBA", (80, 80))
    ImageDraw.Draw(disc).ellipse((8, 8, 71, 71), fill=(200, 30, 40, 255))
    monkeypatch.setattr(tower, "_pictures", dict.fromkeys(world.NAMES, disc))
    _, scores = tower.pretrain(2, batch_size=2, num_scored=4)
    assert scores["scenes"] == 4
    _, scores = language.pretrain(tokenizer.build(), 2, batch_size=4, num_scored=4)
    assert scores["sequences"] == 8
