"""Classifier folders as export hooks: real ones of a few thousand random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification

from tests.unit.experts.test_hooks import corpus, look
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.errors import CheckpointError, ConfigError
from vila2_ray.experts.classifier import open_classifier

__all__ = ["corpus"]

NAMES = {0: "Drawing", 1: "neutral", 2: "explicit"}
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def save_images(folder: Path, problem_type: str | None = None) -> Path:
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    torch.manual_seed(0)
    config = ViTConfig(**SIZES, image_size=16, patch_size=8, id2label=NAMES, problem_type=problem_type)
    model = ViTForImageClassification(config)
    model.classifier.weight.data.mul_(50)
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def save_texts(folder: Path) -> Path:
    from vila2_ray.recipes.tiny.tokenizer import build

    torch.manual_seed(0)
    tokenizer = build()
    config = BertConfig(**SIZES, vocab_size=len(tokenizer), max_position_embeddings=32, id2label=NAMES)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_images(tmp_path: Path) -> None:
    folder = save_images(tmp_path / "one")
    images = [Image.new("RGB", (20, 10), color) for color in ("red", "blue", "white")]
    all_three = open_classifier(folder, ("drawing", "neutral", "explicit"), "images", "x").images(images)
    assert [score for score, _ in all_three] == pytest.approx([1.0] * 3)
    single = {
        n: open_classifier(folder, (n,), "images", "x").images(images) for n in ("drawing", "neutral", "explicit")
    }
    for number, (_, label) in enumerate(all_three):
        assert label == NAMES[max(NAMES, key=lambda i: single[NAMES[i].lower()][number][0])]
        assert sum(found[number][0] for found in single.values()) == pytest.approx(1.0)
    assert open_classifier(folder, ("neutral",), "images", "x").images([]) == []


def test_labels_that_do_not_exclude_each_other(tmp_path: Path) -> None:
    folder = save_images(tmp_path / "many", "multi_label_classification")
    image = Image.new("RGB", (20, 10), "red")
    of = [open_classifier(folder, (name.lower(),), "images", "x").images([image])[0][0] for name in NAMES.values()]
    together = open_classifier(folder, tuple(NAMES.values()), "images", "x").images([image])[0]
    assert together == (pytest.approx(max(of)), NAMES[of.index(max(of))])


def test_texts_longer_than_the_context(tmp_path: Path) -> None:
    folder = save_texts(tmp_path / "texts")
    found = open_classifier(folder, ("explicit",), "texts", "x").texts(["a cat", "a cat " * 200])
    assert all(0 < score < 1 and label == "explicit" for score, label in found)


def test_what_cannot_be_a_hook_is_refused(tmp_path: Path) -> None:
    folder = save_images(tmp_path / "one")
    with pytest.raises(ConfigError, match=r"export\.hooks\.a\.labels = 'nsfw': not among the labels.*Drawing"):
        open_classifier(folder, ("nsfw",), "images", "export.hooks.a")
    with pytest.raises(CheckpointError, match="holds no classifier of texts"):
        open_classifier(folder, ("explicit",), "texts", "x")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled weights"):
        open_classifier(folder, ("neutral",), "images", "x")


def test_a_folder_is_a_hook(corpus: Corpus, tmp_path: Path) -> None:
    folder = save_images(tmp_path / "one")
    settings = {"checkpoint": str(folder), "labels": ("drawing", "neutral", "explicit"), "batch_size": 2}
    counts, rows = look(corpus, tmp_path / "v", **settings)
    assert [row["problem"] for row in rows] == [None, None, "image_type", None, None]
    assert [row["score"] for row in rows] == pytest.approx([1, 1, None, None, 1])
    assert counts == {"samples": 5, "judged": 3, "against": 3, "not_judged": 1}
