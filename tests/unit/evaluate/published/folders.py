"""Benchmarks in miniature, in the forms in which they are published, and what models say of them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vila2_ray.config import BenchmarkConfig
from vila2_ray.evaluate.benchmarks import Opened, open_benchmark

ASKED_SHORT = "\nAnswer the question using a single word or phrase."
ASKED_LETTER = "\nAnswer with the option's letter from the given choices directly."


def png(shade: int = 90) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 6), (shade, 40, 40)).save(data, "PNG")
    return data.getvalue()


def picture(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))


def write_json(folder: Path, name: str, content: Any) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_lines(folder: Path, name: str, rows: list[Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def opened(folder: Path, kind: str, **settings: Any) -> Opened:
    return open_benchmark(BenchmarkConfig(kind=kind, path=str(folder), **settings))  # type: ignore[arg-type]


def scores(found: Opened, said: Mapping[str, str | None]) -> dict[str, float]:
    """Scores where the model said this: item id → answer."""
    tallies = found.rule.judge(found.items, [said[item.id] for item in found.items])
    names = {name for tally in tallies for name in tally}
    sums = {name: np.array([sum(tally.get(name, 0.0) for tally in tallies)]) for name in names}
    return {name: float(value[0]) for name, value in found.rule.scores(sums).items()}
