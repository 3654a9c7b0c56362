"""Which expert annotates the images of a skill: chosen and named here, opened where the images are."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from vila2_ray.config import SkillConfig, SkillName
from vila2_ray.corpus.samples import Sample
from vila2_ray.errors import ConfigError, SampleError
from vila2_ray.globs import glob_all
from vila2_ray.skills.things import Annotation
from vila2_ray.storage import Store

if TYPE_CHECKING:
    from PIL.Image import Image

    from vila2_ray.experts.annotations import AnnotationFile
    from vila2_ray.experts.detector import Detector
    from vila2_ray.experts.reader import Reader


OCR_ENGINE = "rapidocr"
Found = Annotation | SampleError | None
"""What an expert saw in an image, what went wrong with that image, or None: it knows nothing of it."""


class Expert(Protocol):
    """Annotates images."""

    def annotate(self, samples: Sequence[Sample], images: Sequence[Image]) -> list[Found]:
        """One for each sample with its RGB image, in order."""


@dataclass(frozen=True)
class ExpertChoice:
    """An expert by name. Picklable; opens nothing by itself."""

    skill: SkillName
    settings: SkillConfig
    name: str
    """What provenance says: the OCR engine, the detector's folder, or the annotations' file or folder."""
    version: str
    """Of the OCR engine; else the beginning of a digest of what the expert is."""
    needs_gpu: bool = False
    """Whether one is worth it where the cluster has any."""

    def open(self) -> Expert:
        """Load it. Raises ConfigError, CorpusError or CheckpointError where it cannot be used."""
        if self.skill == "ocr":
            from vila2_ray.experts.reader import open_reader

            return _Reading(open_reader(self.settings.min_score))
        if self.settings.annotations:
            from vila2_ray.experts.annotations import open_annotations

            return _Annotated(open_annotations(self.settings.annotations), self.settings.min_score)
        from vila2_ray.experts.detector import open_detector

        folder = Store(self.settings.detector).local_folder()
        return _Detecting(open_detector(folder, self.settings.labels, self.settings.min_score))


def choose_expert(skill: SkillName, settings: SkillConfig) -> ExpertChoice:
    """The OCR engine for ocr; annotations or a detector, as configured, for spatial and grounding.

    Raises ConfigError where neither is named, CorpusError and CheckpointError where it is not there.
    """
    if skill == "ocr":
        return ExpertChoice(skill, settings, OCR_ENGINE, _ocr_version())
    if settings.annotations:
        stamps = glob_all([settings.annotations])
        # of the stamp only the size: copying changes its times
        files = [[posixpath.basename(file), stamp.partition(" ")[0]] for file, stamp in stamps.items()]
        digest = hashlib.sha256(json.dumps(files).encode()).hexdigest()
        return ExpertChoice(skill, settings, posixpath.basename(settings.annotations.rstrip("/")), digest[:8])
    if settings.detector:
        from vila2_ray.model.loading import checkpoint_digest

        folder = Store(settings.detector).local_folder()
        name = posixpath.basename(settings.detector.rstrip("/"))
        return ExpertChoice(skill, settings, name, checkpoint_digest(folder)[:8], needs_gpu=True)
    field = f"skills.{skill}"
    remedy = f"say where boxes come from: {field}.annotations=URI (made before) or {field}.detector=FOLDER (a model)"
    raise ConfigError(f"{field}.annotations", "", remedy)


def has_reader() -> bool:
    """Whether the OCR engine is installed."""
    return importlib.util.find_spec(OCR_ENGINE) is not None


def _ocr_version() -> str:
    try:
        return importlib.metadata.version(OCR_ENGINE)
    except importlib.metadata.PackageNotFoundError as error:
        remedy = "the OCR engine is not installed: pip install 'vila2-ray[ocr]'"
        raise ConfigError("skill", "ocr", remedy) from error


class _Reading:
    """Printed lines, by the OCR engine."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def annotate(self, samples: Sequence[Sample], images: Sequence[Image]) -> list[Found]:
        return [self._read(image) for image in images]

    def _read(self, image: Image) -> Found:
        try:
            return Annotation(lines=self._reader.read(image))
        except SampleError as problem:
            return problem


class _Annotated:
    """Boxes that somebody made before."""

    def __init__(self, file: AnnotationFile, min_score: float) -> None:
        self._file, self._min_score = file, min_score

    def annotate(self, samples: Sequence[Sample], images: Sequence[Image]) -> list[Found]:
        return [self._sure(self._file.of(sample)) for sample in samples]

    def _sure(self, found: Annotation | None) -> Annotation | None:
        if found is None or found.things is None:
            return None
        return replace(found, things=tuple(thing for thing in found.things if thing.score >= self._min_score))


class _Detecting:
    """Boxes that a model finds."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector

    def annotate(self, samples: Sequence[Sample], images: Sequence[Image]) -> list[Found]:
        return [Annotation(things=things) for things in self._detector.detect(list(images))]
