"""What screening costs and finds: pictures per second of one core, hashes compared per second, recall, false alarms.

    python benchmarks/screening.py --to benchmarks/results

Recall is over scenes of the tiny recipe that were encoded again or resized; a false alarm is a pair of different scenes
within the default distance. The search runs over random hashes, one in a hundred a near copy of another. The last line
is one JSON object of named figures.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import resource
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vila2_ray.config import ScreenConfig
from vila2_ray.corpus.samples import Sample
from vila2_ray.corpus.screening import measure
from vila2_ray.recipes.tiny.corpus import sample
from vila2_ray.screening.bands import cut, near_repeats, num_different_bits
from vila2_ray.screening.phash import perceptual_hash

DISTANCE = ScreenConfig().near_distance
COPIES: dict[str, dict[str, Any]] = {
    "JPEG of quality 60": {"format": "JPEG", "quality": 60},
    "WebP of quality 60": {"format": "WEBP", "quality": 60},
    "half the size": {"format": "JPEG", "quality": 85, "scale": 0.5},
    "twice the size": {"format": "JPEG", "quality": 85, "scale": 2.0},
}


def scenes(number: int) -> list[Image.Image]:
    members = (dict(sample("pretrain", 5, n)) for n in range(number))
    encoded = (next(found[ending] for ending in ("jpg", "png", "webp") if ending in found) for found in members)
    return [Image.open(io.BytesIO(data)).convert("RGB") for data in encoded]


def encode(image: Image.Image, format: str, scale: float = 1.0, **save: Any) -> bytes:
    out = io.BytesIO()
    size = (round(image.width * scale), round(image.height * scale))
    image.resize(size, Image.Resampling.BICUBIC).save(out, format, **save)
    return out.getvalue()


def quality(pictures: list[Image.Image]) -> dict[str, float]:
    """Recall by kind of copy, and false alarms among all pairs."""
    hashes = np.array([perceptual_hash(picture) for picture in pictures], np.uint64)
    figures = {}
    for name, how in COPIES.items():
        copies = (Image.open(io.BytesIO(encode(picture, **how))).convert("RGB") for picture in pictures[:500])
        made = np.array([perceptual_hash(copy) for copy in copies], np.uint64)
        figures[f"recall: {name}"] = float((num_different_bits(made, hashes[: len(made)]) <= DISTANCE).mean())
    first, second = np.triu_indices(len(hashes), 1)
    alike = num_different_bits(hashes[first], hashes[second]) <= DISTANCE
    figures["false alarms per pair"] = float(alike.mean())
    figures["share of different scenes left out"] = len(np.unique(second[alike])) / len(hashes)
    return figures


def rates(pictures: list[Image.Image]) -> dict[str, float]:
    """Pictures per second of one core: JPEG, 512 × 512 pixels."""
    encoded = [encode(picture, "JPEG", 512 / picture.width, quality=90) for picture in pictures[:200]]
    figures = {}
    for name, looks in (("bytes and size", False), ("with perceptual hash", True)):
        began = time.process_time()
        for row, data in enumerate(encoded):
            measure(Sample("pretrain", "0", row, str(row), data, ""), 10_000_000, looks)
        figures[f"pictures per second: {name}"] = len(encoded) / (time.process_time() - began)
    return figures


def search(number: int) -> dict[str, float]:
    """Hashes per second of one core, all bands searched, and how many of the near copies are found."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 1 << 64, number, dtype=np.uint64)
    copies = np.arange(number // 2, number, 50)
    hashes[copies] = hashes[copies - number // 2]
    for _ in range(DISTANCE):
        hashes[copies] ^= np.uint64(1) << rng.integers(0, 64, len(copies)).astype(np.uint64)
    places = np.arange(number, dtype=np.uint64)
    began = time.process_time()
    found = np.unique(np.concatenate([near_repeats(hashes, places, band, DISTANCE) for band in cut(DISTANCE)]))
    seconds = time.process_time() - began
    return {
        "hashes searched": number,
        "hashes searched per second": number / seconds,
        "near copies found": float(np.isin(copies, found).mean()),
        "peak memory of the process, GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--hashes", type=int, default=1_000_000)
    parser.add_argument("--to", type=Path, help="folder for the dated result")
    args = parser.parse_args()
    pictures = scenes(args.scenes)
    figures = {**search(args.hashes), **quality(pictures), **rates(pictures)}
    figures = {name: float(f"{value:.4g}") for name, value in figures.items()}
    last = json.dumps(figures)
    if args.to:
        table = "\n".join(f"| {name} | {value:,g} |" for name, value in figures.items())
        machine = platform.processor() or platform.machine()
        made = f"`python benchmarks/screening.py` on {machine}, by seconds of one core, distance {DISTANCE}."
        head = f"# Screening, {date.today().isoformat()}\n\n{made}\n\n| figure | value |\n|---|---|\n"
        text = f"{head}{table}\n\n```json\n{last}\n```\n"
        (args.to / "screening.md").write_text(text, "utf-8")
    print(last)


if __name__ == "__main__":
    main()
