"""Object detectors: any that transformers loads from a local folder, with a fixed set of classes or an open vocabulary.

Weights come from safetensors only and no code from the folder, as for every checkpoint here. Detectors compute in
float32: corners in bfloat16 would be off by some thousandths of the image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vila2_ray.captions.boxes import iou, thousandths
from vila2_ray.engines.choice import choose_device
from vila2_ray.errors import CheckpointError, ConfigError, in_one_line
from vila2_ray.model.loading import check_checkpoint, load_processor
from vila2_ray.skills.grounding import with_article
from vila2_ray.skills.things import Thing

if TYPE_CHECKING:
    from PIL.Image import Image

BATCH_SIZE = 8
"""Images that go through a detector at once."""
MAX_IOU = 0.7
"""Of two findings of one name that overlap more, only the more confident one stays."""
_NO_CLASSES = ("n/a", "no object", "no-object", "background", "")
_PHOTO_PROMPTED = ("owlvit", "owlv2")
"""Families that were trained on `a photo of a cat` rather than on `cat`."""


class Detector(Protocol):
    """Finds things in images."""

    def detect(self, images: Sequence[Image]) -> list[tuple[Thing, ...]]:
        """The things of each RGB image, the most confident first, with boxes in thousandths."""


def open_detector(folder: str | Path, labels: Sequence[str], min_score: float) -> Detector:
    """The detector of a local folder, on the GPU where there is one.

    `labels` are what an open vocabulary is searched for; of a fixed set of classes they are those wanted, and empty
    stands for all. Findings less confident than `min_score` are left out.
    Raises CheckpointError for a folder that cannot be used or holds no detector, ConfigError for labels that are
    missing or that a fixed set of classes does not know.
    """
    path = check_checkpoint(folder)
    model, is_open = _load(path)
    processor = load_processor(path)
    if is_open:
        if not any(label.strip() for label in labels):
            remedy = f"name what to look for: {folder} has an open vocabulary and no classes of its own"
            raise ConfigError("skills.<skill>.labels", tuple(labels), remedy)
        return _OpenVocabulary(model, processor, labels, min_score)
    if not hasattr(processor, "post_process_object_detection"):
        raise CheckpointError(str(folder), "has a processor that makes no boxes of what the model says")
    return _FixedClasses(model, processor, labels, min_score)


class _FixedClasses:
    """A detector of the classes in its configuration."""

    def __init__(self, model: Any, processor: Any, labels: Sequence[str], min_score: float) -> None:
        self._model, self._processor, self._min_score = model, processor, min_score
        self._names = {int(number): _plain(name) for number, name in model.config.id2label.items()}
        known = {name for name in self._names.values() if name not in _NO_CLASSES}
        wanted = {_plain(label) for label in labels if label.strip()}
        if unknown := wanted - known:
            remedy = f"not among the detector's classes ({', '.join(sorted(known)[:8])} …)"
            raise ConfigError("skills.<skill>.labels", ", ".join(sorted(unknown)), remedy)
        self._wanted = wanted or known

    def detect(self, images: Sequence[Image]) -> list[tuple[Thing, ...]]:
        return [things for batch in _batches(images) for things in self._batch(batch)]

    def _batch(self, images: Sequence[Image]) -> list[tuple[Thing, ...]]:
        inputs = self._processor(images=list(images), return_tensors="pt")
        outputs = _forward(self._model, inputs)
        found = self._processor.post_process_object_detection(
            outputs, threshold=self._min_score, target_sizes=_sizes(images)
        )
        names = {number: name for number, name in self._names.items() if name in self._wanted}
        return [
            _things(_rows([names.get(int(label), "") for label in one["labels"]], one), image)
            for image, one in zip(images, found, strict=True)
        ]


class _OpenVocabulary:
    """A detector that is told in words what to look for."""

    def __init__(self, model: Any, processor: Any, labels: Sequence[str], min_score: float) -> None:
        self._model, self._processor, self._min_score = model, processor, min_score
        self._labels = list(dict.fromkeys(_plain(label) for label in labels if label.strip()))
        self._asked = self._labels
        if model.config.model_type in _PHOTO_PROMPTED:
            self._asked = [f"a photo of {with_article(label)}" for label in self._labels]

    def detect(self, images: Sequence[Image]) -> list[tuple[Thing, ...]]:
        return [things for batch in _batches(images) for things in self._batch(batch)]

    def _batch(self, images: Sequence[Image]) -> list[tuple[Thing, ...]]:
        asked = [self._asked] * len(images)
        inputs = self._processor(images=list(images), text=asked, return_tensors="pt", truncation=True)
        outputs = _forward(self._model, inputs)
        told = {"input_ids": inputs["input_ids"]} if "grounding-dino" in self._model.config.model_type else {}
        found = self._processor.post_process_grounded_object_detection(
            outputs,
            threshold=self._min_score,
            target_sizes=_sizes(images),
            text_labels=[self._labels] * len(images),
            **told,
        )
        return [
            _things(_rows([self._label(said) for said in one["text_labels"]], one), image)
            for image, one in zip(images, found, strict=True)
        ]

    def _label(self, said: str) -> str:
        """The label that a detector means: some give back the words that they found most of."""
        phrase = _plain(said)
        if phrase in self._labels:
            return phrase
        parts = [label for label in self._labels if f" {label} " in f" {phrase} " or f" {phrase} " in f" {label} "]
        return max(parts, key=len) if phrase and parts else ""


def _load(path: Path) -> tuple[Any, bool]:
    """The model in eval mode on its device, and whether its vocabulary is open."""
    from transformers import (
        MODEL_FOR_OBJECT_DETECTION_MAPPING,
        MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING,
        AutoConfig,
        AutoModelForObjectDetection,
        AutoModelForZeroShotObjectDetection,
    )

    settings = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(path, **settings)
    except (ValueError, KeyError, OSError) as error:
        problem = f"is of no family that transformers knows: {in_one_line(error)}"
        raise CheckpointError(str(path), problem) from error
    is_open = type(config) in MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING
    if not is_open and type(config) not in MODEL_FOR_OBJECT_DETECTION_MAPPING:
        remedy = "Give a detector, for example of the families yolos, detr, rt_detr, owlv2 or grounding-dino"
        raise CheckpointError(str(path), f"holds a model of the family {config.model_type}, no detector", remedy)
    kind = AutoModelForZeroShotObjectDetection if is_open else AutoModelForObjectDetection
    try:
        model, report = kind.from_pretrained(
            path, dtype="float32", use_safetensors=True, output_loading_info=True, **settings
        )
    except (ValueError, KeyError, OSError, ImportError) as error:
        raise CheckpointError(str(path), f"cannot be loaded: {in_one_line(error)}") from error
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise CheckpointError(str(path), f"lacks weights of its own architecture ({missing} …)")
    return model.eval().to(choose_device()), is_open


def _forward(model: Any, inputs: Any) -> Any:
    import torch

    with torch.inference_mode():
        return model(**inputs.to(model.device))


def _batches(images: Iterable[Image]) -> Iterable[list[Image]]:
    left = iter(images)
    while batch := list(islice(left, BATCH_SIZE)):
        yield batch


def _sizes(images: Sequence[Image]) -> list[tuple[int, int]]:
    """Height and width of each."""
    return [(image.height, image.width) for image in images]


def _rows(names: Sequence[str], found: Any) -> list[tuple[str, float, list[float]]]:
    """Name, score and corners in pixels of what was found in one image."""
    return list(zip(names, found["scores"].tolist(), found["boxes"].tolist(), strict=True))


def _things(rows: Iterable[tuple[str, float, list[float]]], image: Image) -> tuple[Thing, ...]:
    """Named findings with a box that can be, the most confident first, none twice."""
    kept: list[Thing] = []
    for name, score, (left, top, right, bottom) in sorted(rows, key=lambda row: -row[1]):
        box = thousandths((left, top, right, bottom), image.width, image.height)
        if name and box.is_valid and not any(t.name == name and iou(t.box, box) > MAX_IOU for t in kept):
            kept.append(Thing(name, box, round(score, 4)))
    return tuple(kept)


def _plain(name: str) -> str:
    return " ".join(name.lower().split())
