from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vila2_ray.recipes.tiny.corpus import sample
from vila2_ray.screening.bands import num_different_bits
from vila2_ray.screening.phash import perceptual_hash, to_hex

NUM_SCENES = 300


@functools.cache
def scenes() -> list[Image.Image]:
    """Different scenes of the tiny recipe: things on plain or soft backgrounds, so harder to tell apart than photos."""
    members = (dict(sample("pretrain", 5, number)) for number in range(NUM_SCENES))
    encoded = (next(found[ending] for ending in ("jpg", "png", "webp") if ending in found) for found in members)
    return [Image.open(io.BytesIO(data)).convert("RGB") for data in encoded]


@functools.cache
def hashes() -> np.ndarray:
    return np.array([perceptual_hash(scene) for scene in scenes()], np.uint64)


def again(image: Image.Image, scale: float = 1.0, format: str = "JPEG", **save: Any) -> int:
    out = io.BytesIO()
    size = (round(image.width * scale), round(image.height * scale))
    image.resize(size, Image.Resampling.BICUBIC).save(out, format, **save)
    return perceptual_hash(Image.open(io.BytesIO(out.getvalue())).convert("RGB"))


@pytest.mark.parametrize(
    ("scale", "format", "quality", "least_found"),
    [(1, "JPEG", 60, 0.97), (0.5, "JPEG", 85, 0.98), (2, "JPEG", 85, 0.99), (1, "WEBP", 60, 0.96), (1, "PNG", 0, 1.0)],
)
def test_the_same_scene_is_found_again(scale: float, format: str, quality: int, least_found: float) -> None:
    chosen = scenes()[:100]
    made = np.array([again(s, scale, format, **({"quality": quality} if quality else {})) for s in chosen], np.uint64)
    assert (num_different_bits(made, hashes()[:100]) <= 4).mean() >= least_found


def test_different_scenes_are_rarely_taken_for_each_other() -> None:
    first, second = np.triu_indices(NUM_SCENES, 1)
    rate = (num_different_bits(hashes()[first], hashes()[second]) <= 4).mean()
    assert rate <= 1e-4, "measured 2.3e-5 over the two million pairs of 2,000 scenes"


def test_a_hash_is_what_the_imagehash_library_makes_of_it() -> None:
    """The value is that of ImageHash 4.3.2 `phash`, so that lists made with it can be used."""
    y, x = np.mgrid[0:48, 0:64]
    waves = ((np.sin(x / 7 + y * y / 300) + np.cos(y / 5 - x / 11)) * 60 + 127).astype(np.uint8)
    assert to_hex(perceptual_hash(Image.fromarray(waves))) == "f0b5e06ab5e01fe0"


def test_one_colour_has_a_hash_too() -> None:
    assert perceptual_hash(Image.new("RGB", (5, 5), "black")) == 0
    assert len({perceptual_hash(Image.new("RGB", size, "red")) for size in ((1, 1), (640, 3), (90, 90))}) == 1
