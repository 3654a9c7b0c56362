"""Shards of small pictures with things at known places, and their annotations, as specialists learn from them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from vila2_ray.captions.boxes import Box
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.skills.things import Annotation, Thing
from vila2_ray.storage import Store

CAT_AND_DOG = Annotation(things=(Thing("cat", Box(50, 100, 350, 400)), Thing("dog", Box(600, 550, 950, 900), 0.75)))
NOTHING = Annotation(things=())


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def square(shade: int) -> bytes:
    return png(Image.new("RGB", (32, 32), (shade % 256, 90, 30)))


def sign(text: str) -> bytes:
    """A picture of printed text, of the size of a photo of a sign."""
    image = Image.new("RGB", (320, 120), "white")
    ImageDraw.Draw(image).text((20, 30), text, fill="black", font=ImageFont.load_default(48))
    return png(image)


def write_shards(folder: Path, shards: list[list[bytes]], truths: list[dict] | None = None) -> list[str]:
    """Tars 00000 … of these pictures; sample ids in order."""
    folder.mkdir(parents=True, exist_ok=True)
    ids: list[str] = []
    for number, pictures in enumerate(shards):
        with tarfile.open(folder / f"{number:05}.tar", "w") as archive:
            for row, picture in enumerate(pictures):
                members = {"png": picture}
                if truths is not None:
                    members["truth.json"] = json.dumps(truths[len(ids)]).encode()
                for ending, content in members.items():
                    member = tarfile.TarInfo(f"{row:04}.{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
                ids.append(f"{number:05}/{row:04}")
    return ids


def write_annotations(file: Path, annotations: dict[str, Annotation]) -> str:
    """JSON Lines by sample id."""
    lines = (json.dumps({"sample_id": name, **found.as_json()}) for name, found in annotations.items())
    file.write_text("\n".join(lines) + "\n")
    return str(file)


def open_corpus(folder: Path, source: str = "images") -> Corpus:
    return Corpus.open(str(folder / source), source, Store(folder / "index"), max_pixels=200_000)
