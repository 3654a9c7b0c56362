"""Base weights: built from the folders of two parts, each part answers as it did alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel, PreTrainedTokenizerFast

from tests.unit.model.parts import write_language, write_tower
from vila2_ray import cli
from vila2_ray.captions.fuse import Turn
from vila2_ray.errors import CheckpointError
from vila2_ray.model import build_vila, checkpoint_digest, load_model, load_processor
from vila2_ray.model.architecture import LANGUAGE_MODELS
from vila2_ray.model.base import write_base
from vila2_ray.model.building import load_tokenizer
from vila2_ray.storage import Store
from vila2_ray.train.source import ImageKey
from vila2_ray.train.tokenize import ItemTokenizer


@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
@torch.no_grad()
def test_both_parts_answer_as_they_did_alone(kind: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tower = write_tower(tmp_path / "tower", whole=kind != "llama").eval()
    language = write_language(tmp_path / "language", tokenizer, kind, tie_word_embeddings=kind == "qwen2").eval()
    summary = write_base(tmp_path / "tower", tmp_path / "language", Store(tmp_path / "vila"))
    model, processor = load_model(tmp_path / "vila"), load_processor(tmp_path / "vila")
    ids = torch.tensor([[1, 4, 5, 4]])
    torch.testing.assert_close(model(input_ids=ids).logits[..., :6], language(input_ids=ids).logits)
    pixels = processor.image_processor(images=[Image.new("RGB", (9, 9), "red")], return_tensors="pt")["pixel_values"]
    seen, alone = (
        each(pixels, output_hidden_states=True).hidden_states[-2] for each in (model.model.vision_tower, tower)
    )
    torch.testing.assert_close(seen, alone)
    assert summary.digest == checkpoint_digest(tmp_path / "vila")
    assert summary.num_image_tokens == 9
    assert sum(summary.num_parameters.values()) == sum(parameter.numel() for parameter in model.parameters())
    assert not any("head" in name for name, _ in model.model.vision_tower.named_parameters())
    assert model.generation_config.eos_token_id == 2
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == (kind == "qwen2"), "tied where it was"

    items = [((Turn("user", "a"), Turn("assistant", "cat")), [ImageKey("", "", 0)]), ((Turn("assistant", "cat"),), [])]
    asked, told = ItemTokenizer(processor, 64)(items)
    assert int((asked.input_ids == model.config.image_token_id).sum()) == 9
    assert asked.input_ids[asked.supervised].tolist()[-1] == 2
    spoken = load_tokenizer(tmp_path / "language")("<s>cat</s>", add_special_tokens=False)["input_ids"]
    assert told.input_ids.tolist() == spoken


def test_the_number_format_is_the_language_models(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    write_tower(tmp_path / "tower")
    write_language(tmp_path / "language", tokenizer, dtype=torch.bfloat16)
    write_base(tmp_path / "tower", tmp_path / "language", Store(tmp_path / "auto"))
    write_base(tmp_path / "tower", tmp_path / "language", Store(tmp_path / "f32"), dtype="float32", downsample_factor=1)
    assert {p.dtype for p in load_model(tmp_path / "auto").parameters()} == {torch.bfloat16}
    other = load_model(tmp_path / "f32")
    assert {p.dtype for p in other.parameters()} == {torch.float32}
    assert other.config.image_seq_length == 25


def test_a_vocabulary_that_suits_gpus_still_does_with_the_image_in_it(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    write_tower(tmp_path / "tower")
    for size, rows in ((64, 64), (6, 7)):
        write_language(tmp_path / f"{size}", tokenizer, vocab_size=size)
        model, _ = build_vila(tmp_path / "tower", tmp_path / f"{size}")
        assert model.get_input_embeddings().num_embeddings == model.config.text_config.vocab_size == rows
    tokenizer.add_tokens([f"word{n}" for n in range(58)])
    write_language(tmp_path / "full", tokenizer, vocab_size=64)
    model, grown = build_vila(tmp_path / "tower", tmp_path / "full")
    assert (len(grown), model.lm_head.weight.shape[0]) == (65, 128)


def test_pixels_are_scaled_as_the_towers_folder_says(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    write_tower(tmp_path / "tower")
    write_language(tmp_path / "language", tokenizer)
    (tmp_path / "tower" / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3], "size": 3}')
    write_base(tmp_path / "tower", tmp_path / "language", Store(tmp_path / "vila"))
    images = load_processor(tmp_path / "vila").image_processor
    assert (list(images.image_mean), list(images.image_std)) == ([0.1, 0.2, 0.3], [0.5, 0.5, 0.5])


def test_folders_that_cannot_be_used_are_refused(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tower, language = tmp_path / "tower", tmp_path / "language"
    write_tower(tower)
    write_language(language, tokenizer)
    write_language(tmp_path / "gpt", tokenizer, "gpt_neox")
    CLIPVisionModel(
        CLIPVisionConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    ).save_pretrained(tmp_path / "clip")
    write_base(tower, language, Store(tmp_path / "vila"))
    mute = tmp_path / "mute"
    write_language(mute, tokenizer)
    for file in mute.glob("tokenizer*"):
        file.unlink()
    torn = tmp_path / "torn"
    write_tower(torn)
    weights = (torn / "model.safetensors").read_bytes()
    (torn / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text("{}")
    (pickled / "pytorch_model.bin").write_text("")
    for vision, speaks, said in (
        (tmp_path / "clip", language, "holds a clip_vision_model, not a SigLIP"),
        (language, language, "holds a llama, not a SigLIP"),
        (tower, tmp_path / "gpt", "holds a gpt_neox, not a language model of Llama's family"),
        (tower, tower, "not a language model"),
        (tower, tmp_path / "vila", "is a whole vision-language model.*base.checkpoint"),
        (tower, mute, "has no tokenizer"),
        (tower, pickled, "pickled weights"),
        (torn, language, "cannot be loaded"),
        (tmp_path / "nowhere", language, "is not a folder"),
    ):
        with pytest.raises(CheckpointError, match=said):
            write_base(vision, speaks, Store(tmp_path / "new"))
    with pytest.raises(CheckpointError, match="is not empty"):
        write_base(tower, language, Store(tmp_path / "vila"))
    assert not [path for path in tmp_path.iterdir() if path.name == "new" or path.name.startswith(".tmp")]
    assert cli.main(["base", "--vision", str(tower), "--to", str(tmp_path / "new")]) == 2
    assert "either --vision and --language, or --vila" in capsys.readouterr().err


def test_the_command_says_what_it_made(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tower(tmp_path / "tower")
    write_language(tmp_path / "language", tokenizer)
    words = ["--vision", str(tmp_path / "tower"), "--language", str(tmp_path / "language"), "--to", str(tmp_path / "v")]
    assert cli.main(["base", *words]) == 0
    assert f"base.checkpoint={tmp_path / 'v'}" in capsys.readouterr().out
