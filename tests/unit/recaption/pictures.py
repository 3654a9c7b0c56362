"""Shards of noise pictures of which every one is known by its pixels, some of them bad in every way there is."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path

from PIL import Image

from vila2_ray.captions.prompts import Prompts
from vila2_ray.config import EngineConfig, RecaptionConfig, SamplingConfig
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.layers import Layer, Parts
from vila2_ray.engines.fake import pixels_digest
from vila2_ray.recaption.job import RecaptionJob
from vila2_ray.storage import Store

Known = dict[tuple[str, int], str]
"""(shard, row) → what the fake engine calls the picture; "" where no caption can be."""


def png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def bad_pictures() -> dict[str, bytes]:
    """Reason → bytes that fail for it when decoded."""
    whole = png(Image.effect_noise((32, 32), 90).convert("RGB"))
    return {
        "image_unreadable": whole[: len(whole) // 2],
        "image_too_large": png(Image.new("RGB", (400, 300))),
        "image_type": b"%PDF-1.7 a picture it says",
    }


def write_shards(
    folder: Path, sizes: list[int], bad: dict[tuple[int, int], bytes] | None = None, seed: int = 0
) -> Known:
    """Tars 00000 … of `sizes` pictures; `bad`: (shard number, row) → bytes in place of the picture."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, known = random.Random(seed), Known()
    for number, size in enumerate(sizes):
        with tarfile.open(folder / f"{number:05}.tar", "w") as archive:
            for row in range(size):
                image = Image.frombytes("RGB", (9, 7), rng.randbytes(189))
                data = (bad or {}).get((number, row), png(image))
                known[f"{number:05}", row] = (
                    "" if (number, row) in (bad or {}) else pixels_digest(image.size, image.tobytes())
                )
                for name, content in ((f"{row:04}.png", data), (f"{row:04}.txt", b"alt text")):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return known


def make_job(folder: Path, name: str = "layer", checkpoint: Path | None = None, **settings: object) -> RecaptionJob:
    """A job over `folder/corpus` that writes below `folder/name`; `settings`: fields of it or of its configuration."""
    of_job = {key: settings.pop(key) for key in ("fraction", "keep", "max_pixels") if key in settings}
    defaults = {
        "range_rows": 16,
        "engine": EngineConfig(name="fake", batch_size=8),
        "sampling": SamplingConfig(max_tokens=99),
    }
    config = RecaptionConfig(**{**defaults, **settings})  # type: ignore[arg-type]
    return RecaptionJob(
        corpus=Corpus.open(str(folder / "corpus"), "pretrain", Store(folder / "index"), max_pixels=10_000),
        layer=Layer(Store(folder / name / "captions")),
        parts=Parts(Store(folder / name / "parts")),
        checkpoint_folder=checkpoint or folder,
        prompts=Prompts(config.prompt_ids, config.prompts),
        config=config,
        plan_key="0:test",
        metadata={"layer": "round-1"},
        **of_job,  # type: ignore[arg-type]
    )
