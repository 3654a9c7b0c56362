"""Base weights from anywhere: writes the `vila` folder that a campaign starts from.

The parts come as two folders (any SigLIP, any language model of Llama's family), or as the folder that VILA-1.5 was
published in. A whole vision-language model needs none of this: its folder is a base as it is.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vila2_ray.errors import CheckpointError
from vila2_ray.model.building import build_vila, load_tokenizer, read_language_config, read_tower_config
from vila2_ray.model.families import Part, part_of
from vila2_ray.model.loading import checkpoint_digest
from vila2_ray.model.processor import build_processor
from vila2_ray.model.template import with_images
from vila2_ray.model.vila15 import read_vila15
from vila2_ray.storage import Store

if TYPE_CHECKING:
    import torch

    from vila2_ray.model.modeling import VilaForConditionalGeneration

_END_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class BaseSummary:
    """What was written."""

    uri: str
    digest: str
    num_parameters: dict[Part, int]
    num_image_tokens: int


def write_base(
    vision: Path, language: Path, to: Store, *, downsample_factor: int = 2, dtype: str = "auto", seed: int = 0
) -> BaseSummary:
    """Write a `vila` folder from a tower's folder and a language model's; the connector is new.

    `dtype` "auto" keeps the language model's number format. Raises CheckpointError for folders that cannot be used and
    where something lies at `to` already.
    """
    _check_free(to)
    settings = {"downsample_factor": downsample_factor, "seed": seed}
    return _write(vision, language, to, dtype, settings)


def convert_vila15(folder: Path, to: Store, *, dtype: str = "auto") -> BaseSummary:
    """Write a published VILA-1.5 folder as a `vila` folder, weights unchanged. Raises CheckpointError as above."""
    _check_free(to)
    found = read_vila15(folder)
    settings = {"connector": found.connector, "vision_feature_layer": found.vision_feature_layer}
    return _write(found.vision, found.language, to, dtype, settings)


def _check_free(to: Store) -> None:
    if to.list():
        raise CheckpointError(to.uri, "is not empty", "Name a new folder; nothing is overwritten")


def _write(vision: Path, language: Path, to: Store, dtype: str, settings: dict[str, Any]) -> BaseSummary:
    read_tower_config(vision)  # mistakes are told before gigabytes are read
    format_ = _format(dtype, read_language_config(language))
    tokenizer = load_tokenizer(language)
    if tokenizer.eos_token is None:
        raise CheckpointError(str(language), "has a tokenizer without eos_token, so no answer would ever end")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # batches are padded, and the padding is masked
    model, tokenizer = build_vila(vision, language, tokenizer=tokenizer, dtype=format_, **settings)
    _take_end_tokens(model, language)
    template = with_images(tokenizer.chat_template)
    processor = build_processor(model.config, tokenizer, template, normalization(vision))
    counts: Counter[Part] = Counter()
    for name, parameter in model.named_parameters():
        counts[part_of(name, "vila")] += parameter.numel()
    with tempfile.TemporaryDirectory(prefix="vila2-base-") as scratch:
        local = Path(to.uri).with_name(f".tmp-{uuid.uuid4().hex}") if to.is_local else Path(scratch)
        try:
            model.save_pretrained(local)
            processor.save_pretrained(local)
            digest = checkpoint_digest(local)
            if to.is_local:
                shutil.rmtree(to.uri, ignore_errors=True)  # it is empty
                local.rename(to.uri)
            else:
                to.upload_folder(local)
        finally:
            shutil.rmtree(local, ignore_errors=True)
    return BaseSummary(to.uri, digest, dict(counts), int(model.config.image_seq_length))


def normalization(vision: Path) -> dict[str, list[float]]:
    """Mean and deviation of pixels as the tower's folder states them; SigLIP's own where it does not."""
    file = vision / "preprocessor_config.json"
    if not file.is_file():
        return {}
    stated = json.loads(file.read_text("utf-8"))
    return {name: stated[name] for name in ("image_mean", "image_std") if stated.get(name)}


def _format(dtype: str, language: Any) -> torch.dtype:
    import torch

    if dtype != "auto":
        return getattr(torch, dtype)
    stated = getattr(language, "dtype", None) or torch.float32
    return getattr(torch, stated) if isinstance(stated, str) else stated


def _take_end_tokens(model: VilaForConditionalGeneration, language: Path) -> None:
    """Answers end where the language model's own did: instruct models end a turn with another token than a text."""
    file = language / "generation_config.json"
    stated = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    for name in _END_TOKENS:
        value = stated.get(name, getattr(model.config.text_config, name, None))
        setattr(model.generation_config, name, value)
