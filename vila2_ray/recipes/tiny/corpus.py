"""Writes the tiny world as WebDataset shards: `pretrain/`, `sft/`, `heldout/` and `experts/`, each `00000.tar`, …

- *pretrain*: `key.png|jpg`, `key.txt` (alt text; missing for a few percent), `key.json` (extra columns as img2dataset
  has them), `key.truth.json` (for scoring only).
- *sft*: `key.json` is LLaVA-style: the careful caption under one of the detailed prompts, then three questions.
- *heldout*: `key.json` is `{"caption", "questions": [{"kind", "question", "answer"}]}`.
- *experts*: pictures alone, and beside the shards `annotations.jsonl`: a line per scene with the names and boxes of its
  things, as an annotator would give them. Printed words are not in it: those an OCR engine has to read.

Every sample follows from (seed, split, number) alone, so shards can be written in any order, by any number of
processes, and again with the same bytes. A shard appears under its name only when it is whole; one that is there is
kept.

    python -m vila2_ray.recipes.tiny.corpus --to DIR
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import multiprocessing
import os
import random
import sys
import tarfile
from pathlib import Path
from typing import Any

from PIL import Image

from vila2_ray.errors import ConfigError, StorageError, Vila2Error
from vila2_ray.recipes.tiny import artwork
from vila2_ray.recipes.tiny.compose import SIDE, compose
from vila2_ray.recipes.tiny.world import (
    DETAILED_PROMPTS,
    TINY_PROMPTS,
    Truth,
    alt_text,
    careful_caption,
    layout,
    questions,
)
from vila2_ray.skills.things import Annotation

SPLITS = ("pretrain", "sft", "heldout", "experts")
ANNOTATIONS = "annotations.jsonl"
Members = dict[str, bytes]
"""Extension → content of one sample."""


def write_corpus(
    to: str | Path,
    *,
    pretrain_shards: int = 24,
    shard_size: int = 250,
    sft: int = 32,
    heldout: int = 500,
    experts: int = 6000,
    seed: int = 0,
    processes: int | None = None,
) -> dict[str, int]:
    """Write all shards that are not there yet. Returns the number of samples of each split.

    A corpus that was written before a split existed is completed by it. Raises ConfigError for counts that are not
    positive and for a folder that holds a corpus of other settings, and StorageError when it cannot be written.
    """
    counts = {"pretrain": pretrain_shards * shard_size, "sft": sft, "heldout": heldout, "experts": experts}
    for name, value in {**counts, "shard_size": shard_size}.items():
        if value < 1:
            raise ConfigError(name, value, "must be greater than 0")
    to = Path(to)
    settings = {"format": 1, "seed": seed, "shard_size": shard_size, "samples": counts}
    jobs = []
    try:
        _check_settings(to / "corpus.json", settings)
        for split in SPLITS:
            (to / split).mkdir(parents=True, exist_ok=True)
            for shard, start in enumerate(range(0, counts[split], shard_size)):
                path = to / split / f"{shard:05d}.tar"
                if not path.exists():
                    jobs.append((path, split, seed, start, min(start + shard_size, counts[split])))
        if jobs:
            artwork.fetch()  # once, before the processes start
            processes = min(len(jobs), processes or os.cpu_count() or 1)
            if processes == 1:
                for job in jobs:
                    _write_shard(job)
            else:
                with multiprocessing.get_context("spawn").Pool(processes) as pool:
                    pool.map(_write_shard, jobs, chunksize=1)
        _write_annotations(to / "experts")
    except Vila2Error:
        raise
    except OSError as error:
        raise StorageError(f"cannot write the corpus to {to}: {error}. Free space, or give another folder") from error
    return counts


def sample(split: str, seed: int, number: int) -> Members:
    """One sample of a split, from (seed, split, number) alone."""
    rng = random.Random(f"corpus/{seed}/{split}/{number}")
    held = split == "heldout"
    image, truth = compose(layout(rng, heldout=held), rng, _pictures(), heldout=held)
    members = _encode(image, rng)
    truth_bytes = _json(truth)
    if split == "pretrain":
        alt = alt_text(truth, rng)
        if rng.random() >= 0.03:
            members["txt"] = alt.encode()
        license_name = rng.choice(("cc0", "cc-by-4.0", "unknown"))
        url = f"https://images.invalid/{number:06d}"
        members["json"] = _json({"url": url, "width": SIDE, "height": SIDE, "license": license_name})
    elif split == "sft":
        members["json"] = _json({"id": f"{number:06d}", "conversations": conversations(truth, rng)})
    elif split == "heldout":
        members["json"] = _json({"caption": careful_caption(truth), "questions": questions(truth, rng, None)})
    return {**members, "truth.json": truth_bytes}


def conversations(truth: Truth, rng: random.Random) -> list[dict[str, str]]:
    """LLaVA-style turns: a careful caption first, then three questions."""
    pairs = [(TINY_PROMPTS[rng.choice(DETAILED_PROMPTS)], careful_caption(truth))]
    pairs += [(asked["question"], asked["answer"]) for asked in questions(truth, rng, 3)]
    turns = []
    for index, (human, gpt) in enumerate(pairs):
        turns.append({"from": "human", "value": human if index else f"<image>\n{human}"})
        turns.append({"from": "gpt", "value": gpt})
    return turns


def _encode(image: Image.Image, rng: random.Random) -> Members:
    stream = io.BytesIO()
    if rng.random() < 0.25:
        image.save(stream, "JPEG", quality=rng.randint(85, 95))
        return {"jpg": stream.getvalue()}
    image.save(stream, "PNG", compress_level=4)
    return {"png": stream.getvalue()}


def _write_shard(job: tuple[Path, str, int, int, int]) -> None:
    path, split, seed, start, stop = job
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with tarfile.open(scratch, "w", format=tarfile.USTAR_FORMAT) as archive:
            for number in range(start, stop):
                for extension, content in sample(split, seed, number).items():
                    # a fresh TarInfo has time 0 and no owner: the same bytes wherever and whenever it is written
                    member = tarfile.TarInfo(f"{number:06d}.{extension}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def _write_annotations(folder: Path) -> None:
    """Names and boxes of things, read back from the truth of the shards; a file that is there is kept."""
    path = folder / ANNOTATIONS
    if path.exists():
        return
    lines = []
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as archive:
            for member in archive:
                key, _, extension = member.name.partition(".")
                content = archive.extractfile(member) if extension == "truth.json" else None
                if content is not None:
                    things = Annotation.from_truth(json.load(content)).things
                    told = Annotation(things=things).as_json()
                    lines.append(_json({"key": key, "sample_id": f"{shard.stem}/{key}", **told}) + b"\n")
    _replace(path, b"".join(lines))


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    """Shards of different settings must not lie in one folder; splits that the folder does not know are new ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(path.read_text()) if path.exists() else None
    if found is not None:
        completed = {**found, "samples": {**settings["samples"], **found.get("samples", {})}}
        if completed != settings:
            remedy = f"holds a corpus of other settings ({path.read_text()}); give another folder"
            raise ConfigError("--to", str(path.parent), remedy)
    if found != settings:
        _replace(path, _json(settings))


def _replace(path: Path, content: bytes) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_bytes(content)
    scratch.replace(path)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


@functools.cache
def _pictures() -> dict[str, Image.Image]:
    return artwork.load()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m vila2_ray.recipes.tiny.corpus", description="Write tiny shards.")
    parser.add_argument("--to", required=True, help="folder to write the splits into")
    parser.add_argument("--pretrain-shards", type=int, default=24)
    parser.add_argument("--shard-size", type=int, default=250)
    parser.add_argument("--sft", type=int, default=32, help="instruction samples")
    parser.add_argument("--heldout", type=int, default=500, help="samples that are only scored")
    parser.add_argument("--experts", type=int, default=6000, help="samples that specialists are finetuned on")
    parser.add_argument("--seed", type=int, default=0)
    options = vars(parser.parse_args(arguments))
    try:
        counts = write_corpus(options.pop("to"), **options)
    except Vila2Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(", ".join(f"{split}: {count} samples" for split, count in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
