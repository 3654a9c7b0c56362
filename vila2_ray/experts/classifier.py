"""Image and text classifiers: any that transformers loads from a local folder; safetensors, no code from the folder."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vila2_ray.engines.choice import choose_device
from vila2_ray.errors import CheckpointError, ConfigError, in_one_line
from vila2_ray.model.loading import check_checkpoint, load_processor

if TYPE_CHECKING:
    from PIL.Image import Image

_SETTINGS = {"local_files_only": True, "trust_remote_code": False}


class Classifier:
    """How probable it is that something has one of the wanted labels, and which of them is the most probable."""

    def __init__(self, model: Any, processor: Any, labels: Sequence[str], where: str) -> None:
        """`where`: the configuration's name for it. Raises ConfigError for labels that the model does not know."""
        self._model, self._processor = model, processor
        names = {int(number): str(name) for number, name in model.config.id2label.items()}
        wanted = {_plain(label) for label in labels}
        self._wanted = {number: name for number, name in names.items() if _plain(name) in wanted}
        if unknown := wanted - {_plain(name) for name in names.values()}:
            known = ", ".join(list(names.values())[:8])
            remedy = f"not among the labels of the checkpoint, which are {known}"
            raise ConfigError(f"{where}.labels", ", ".join(sorted(unknown)), remedy)
        self._is_multi_label = model.config.problem_type == "multi_label_classification"

    def images(self, images: Sequence[Image]) -> list[tuple[float, str]]:
        """Score and label of each RGB image."""
        return self._scores(self._processor(images=list(images), return_tensors="pt")) if images else []

    def texts(self, texts: Sequence[str]) -> list[tuple[float, str]]:
        """Score and label of each text; one that is longer than the model's context is judged by its beginning."""
        if not texts:
            return []
        positions = getattr(self._model.config, "max_position_embeddings", 514)
        limit = min(positions - 2, self._processor.model_max_length)  # RoBERTa's first two stand for nothing
        told = {"padding": True, "truncation": True, "max_length": limit, "return_tensors": "pt"}
        return self._scores(self._processor(list(texts), **told))

    def _scores(self, inputs: Any) -> list[tuple[float, str]]:
        import torch

        with torch.inference_mode():
            logits = self._model(**inputs.to(self._model.device)).logits.float()
        shares = logits.sigmoid() if self._is_multi_label else logits.softmax(-1)  # [N, L]
        found = []
        for row in shares.cpu().tolist():
            of = {name: row[number] for number, name in self._wanted.items()}
            score = max(of.values()) if self._is_multi_label else sum(of.values())
            found.append((min(max(score, 0.0), 1.0), max(of, key=lambda name: of[name])))
        return found


@functools.lru_cache(maxsize=2)
def open_classifier(folder: Path, labels: tuple[str, ...], reads: str, where: str) -> Classifier:
    """The classifier of a local folder, on the GPU where there is one; loaded once per process. `reads`: `images` or
    `texts`.

    Raises CheckpointError for a folder that holds none, ConfigError for labels that it does not know.
    """
    from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, AutoTokenizer

    path = check_checkpoint(folder)
    kind = AutoModelForImageClassification if reads == "images" else AutoModelForSequenceClassification
    try:
        model, report = kind.from_pretrained(
            path, dtype="float32", use_safetensors=True, output_loading_info=True, **_SETTINGS
        )
        processor = load_processor(path) if reads == "images" else AutoTokenizer.from_pretrained(path, **_SETTINGS)
    except (ValueError, KeyError, OSError, ImportError) as error:
        if isinstance(error, CheckpointError):
            raise
        problem = f"holds no classifier of {reads} that can be loaded: {in_one_line(error)}"
        raise CheckpointError(str(folder), problem) from error
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise CheckpointError(
            str(folder), f"lacks weights of its own architecture ({missing} …)", "Is it a classifier?"
        )
    return Classifier(model.eval().to(choose_device()), processor, labels, where)


def _plain(name: str) -> str:
    return " ".join(name.casefold().split())
