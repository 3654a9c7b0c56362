"""Checkpoint folders: what is saved is what is loaded, and what must not be loaded is refused."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, LlamaForCausalLM, SiglipVisionModel

from vila2_ray.errors import CheckpointError
from vila2_ray.model import build_processor, build_vila, checkpoint_digest, load_model, load_processor, register


@pytest.fixture
def folder(vila, tmp_path):
    model, processor = vila
    model.save_pretrained(tmp_path / "vila")
    processor.save_pretrained(tmp_path / "vila")
    return tmp_path / "vila"


def test_a_saved_model_gives_the_same_logits_through_the_auto_classes(vila, folder):
    model, processor = vila
    register()
    register()
    again, reprocessor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    image = Image.effect_noise((60, 30), 90).convert("RGB")
    inputs = processor(images=image, text="<s><image>a cat", return_tensors="pt")
    reinputs = reprocessor(images=image, text="<s><image>a cat", return_tensors="pt")
    assert torch.equal(inputs["pixel_values"], reinputs["pixel_values"])
    assert torch.equal(model(**inputs).logits, again.eval()(**reinputs).logits)
    assert type(again) is type(model)


def test_our_loaders_take_dtypes_and_decode_greedily(folder):
    model, processor = load_model(folder, torch.float64), load_processor(folder)
    assert model.dtype == torch.float64
    assert not model.training
    inputs = processor(images=Image.new("RGB", (8, 8)), text="<s><image>a", return_tensors="pt")
    inputs["pixel_values"] = inputs["pixel_values"].double()
    assert model.generate(**inputs, max_new_tokens=3, do_sample=False).shape[1] <= inputs["input_ids"].shape[1] + 3


def test_names_on_disk_are_llavas(folder):
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as weights:
        names = list(weights.keys())
    prefixes = {".".join(name.split(".")[:2]) for name in names}
    assert prefixes == {"model.vision_tower", "model.multi_modal_projector", "model.language_model"}


def test_pickled_weights_are_refused(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin.*safetensors"):
        load_model(folder)
    with pytest.raises(CheckpointError, match="is not a folder"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="is not a folder"):
        load_processor("someone/some-model")


def test_a_folder_without_its_connector_is_refused(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "projector" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="lacks weights"):
        load_model(folder)


def test_the_digest_follows_contents_and_nothing_else(folder, tmp_path):
    digest = checkpoint_digest(folder)
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "README.md").write_text("not part of the checkpoint")
    assert checkpoint_digest(copy) == digest
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    assert checkpoint_digest(copy) != digest


def test_a_vila_is_built_from_folders_of_a_tower_and_a_language_model(configs, tokenizer, tmp_path):
    torch.manual_seed(1)
    tower, language = SiglipVisionModel(configs[0]), LlamaForCausalLM(configs[1])
    tower.save_pretrained(tmp_path / "tower")
    language.save_pretrained(tmp_path / "language")
    tokenizer.save_pretrained(tmp_path / "language")
    model, with_image = build_vila(tmp_path / "tower", tmp_path / "language", seed=3)
    again, _ = build_vila(tmp_path / "tower", tmp_path / "language", seed=3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    tower_weight, text_weight = model.model.vision_tower.state_dict(), model.model.language_model.state_dict()
    assert all(torch.equal(tower_weight[name], weight) for name, weight in tower.state_dict().items())
    assert torch.equal(text_weight["embed_tokens.weight"][:6], language.model.embed_tokens.weight)
    assert model.config.image_token_index == with_image.convert_tokens_to_ids("<image>") == 6
    assert model.get_input_embeddings().num_embeddings == 7 == model.config.text_config.vocab_size
    assert build_processor(model.config, with_image).image_token == "<image>"


def test_a_tokenizer_with_another_image_token_is_refused(vila, tokenizer):
    model, _ = vila
    model.config.image_token_index = 5
    with pytest.raises(ValueError, match="image_token_index"):
        build_processor(model.config, tokenizer)


def test_importing_the_package_loads_no_torch():
    code = "import sys, vila2_ray.model, vila2_ray.model.families; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
