"""Detectors of four real families, with random weights: the same findings as transformers' own pipelines."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from tests.unit.experts import detectors
from vila2_ray.captions.boxes import iou, thousandths
from vila2_ray.errors import CheckpointError, ConfigError
from vila2_ray.experts.detector import BATCH_SIZE, MAX_IOU, open_detector
from vila2_ray.skills.things import Thing

SAVED: dict[str, Callable[[Path], Path]] = {
    "yolos": detectors.save_yolos,
    "detr": detectors.save_detr,
    "owlvit": detectors.save_owlvit,
    "grounding-dino": detectors.save_grounding_dino,
}
LABELS = ("cat", "red apple")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("detectors")
    for family, save in SAVED.items():
        save(root / family)
    return root


def pictures(number: int, height: int = 40, width: int = 60) -> list[Image.Image]:
    rng = np.random.default_rng(number)
    return [Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for _ in range(number)]


def labels_of(family: str) -> tuple[str, ...]:
    return LABELS if family in ("owlvit", "grounding-dino") else ()


def by_the_pipeline(folder: Path, family: str, picture: Image.Image) -> list[Thing]:
    if family in ("yolos", "detr"):
        said = pipeline("object-detection", model=str(folder))(picture, threshold=0.1)
    else:
        asked = ["a photo of a cat", "a photo of a red apple"] if family == "owlvit" else ["cat."]
        said = pipeline("zero-shot-object-detection", model=str(folder))(picture, candidate_labels=asked, threshold=0.1)
    found = []
    for one in said:
        corners = (one["box"]["xmin"], one["box"]["ymin"], one["box"]["xmax"], one["box"]["ymax"])
        name = one["label"].lower().removeprefix("a photo of a ").rstrip(".")
        found.append(Thing(name, thousandths(corners, picture.width, picture.height), round(one["score"], 4)))
    return found


@pytest.mark.parametrize("family", SAVED)
def test_findings_are_those_of_the_pipeline(folders: Path, family: str) -> None:
    """The pipeline gives whole pixels (25 thousandths of the height) and keeps what has no name and what is doubled.

    It asks grounding-dino for one label at a time, and leaves its full stop to the caller.
    """
    (picture,) = pictures(1)
    labels = labels_of(family)[:1] if family == "grounding-dino" else labels_of(family)
    (found,) = open_detector(folders / family, labels, 0.1).detect([picture])
    theirs = by_the_pipeline(folders / family, family, picture)
    assert found
    for thing in found:
        same = [other for other in theirs if abs(other.score - thing.score) < 2e-4 and other.name in thing.name]
        assert any(max(abs(a - b) for a, b in zip(thing.box, other.box, strict=True)) <= 26 for other in same), thing


@pytest.mark.parametrize("family", SAVED)
def test_every_image_has_its_own_findings_whatever_the_batch(folders: Path, family: str) -> None:
    images = pictures(BATCH_SIZE + 2)
    detector = open_detector(folders / family, labels_of(family), 0.1)
    together = detector.detect(images)
    assert len(together) == len(images)
    assert len(set(together)) > 1
    for things, image in zip(together, images, strict=True):
        (alone,) = detector.detect([image])
        assert [thing.name for thing in alone] == [thing.name for thing in things]
        assert all(thing.box.is_valid and thing.score > 0.1 for thing in things)
        assert [thing.score for thing in things] == sorted((thing.score for thing in things), reverse=True)
        pairs = [(a, b) for i, a in enumerate(things) for b in things[:i] if a.name == b.name]
        assert all(iou(a.box, b.box) <= MAX_IOU for a, b in pairs)
        assert {thing.name for thing in things} <= ({"cat", "dog"} if family in ("yolos", "detr") else set(LABELS))
    assert detector.detect([]) == []


def test_images_of_several_sizes_go_through_together(folders: Path) -> None:
    images = [*pictures(1), *pictures(1, 80, 33), *pictures(1, 7, 9)]
    for family in SAVED:
        assert len(open_detector(folders / family, labels_of(family), 0.1).detect(images)) == 3


def test_what_is_less_confident_or_not_wanted_is_left_out(folders: Path) -> None:
    images = pictures(3)
    everything = open_detector(folders / "yolos", (), 0.0).detect(images)
    sure = open_detector(folders / "yolos", (), 0.35).detect(images)
    assert sum(map(len, sure)) < sum(map(len, everything))
    assert all(thing.score > 0.35 for things in sure for thing in things)
    dogs = open_detector(folders / "yolos", ("Dog",), 0.0).detect(images)
    assert {thing.name for things in dogs for thing in things} == {"dog"}


def test_labels_must_fit_the_vocabulary(folders: Path) -> None:
    with pytest.raises(ConfigError, match=r"skills\.<skill>\.labels.*open vocabulary"):
        open_detector(folders / "owlvit", (" ",), 0.1)
    with pytest.raises(ConfigError, match=r"unicorn.*cat, dog"):
        open_detector(folders / "yolos", ("unicorn", "cat"), 0.1)


def test_folders_that_are_no_detector_are_refused(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a folder"):
        open_detector(tmp_path / "missing", (), 0.1)
    pickled = shutil.copytree(folders / "yolos", tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled"):
        open_detector(pickled, (), 0.1)
    other = shutil.copytree(folders / "yolos", tmp_path / "other")
    (other / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match=r"family bert, no detector"):
        open_detector(other, (), 0.1)
    (other / "config.json").write_text('{"model_type": "no such"}')
    with pytest.raises(CheckpointError, match="no family"):
        open_detector(other, (), 0.1)
    bare = shutil.copytree(folders / "yolos", tmp_path / "bare")
    shutil.copy(folders / "detr" / "model.safetensors", bare)
    with pytest.raises(CheckpointError, match="lacks weights"):
        open_detector(bare, (), 0.1)
