"""What the OCR engine reads and makes up: real pictures, printed pages and composed scenes, and how many a second.

    python benchmarks/ocr.py --to benchmarks/results

Real pictures are those that scikit-image's wheel holds, against transcripts typed by hand (tests/transcripts); its
other photographs have no text. Pages are printed with Pillow's font on 500 pixels' width; scenes are those of the tiny
recipe. Each is read as the product reads, without enlargement of small images, and with the engine's orientation
classifier, which the product leaves out. The last line is one JSON object of named figures.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import mean

import skimage.data
from PIL import Image, ImageDraw, ImageFont

from vila2_ray.corpus.images import decode_image
from vila2_ray.experts import reader as reading
from vila2_ray.recipes.tiny.corpus import sample
from vila2_ray.skills.printed import character_error_rate, word_accuracy, word_precision

TRANSCRIPTS = Path(__file__).parents[1] / "tests" / "transcripts"
PICTURES = Path(skimage.data.__file__).parent
HANDWRITING = "text.png"
"""Formulas: neither without text nor print."""
TEXT = (
    "fresh bread every morning and coffee all day long for everybody here to take along or eat in our garden behind "
    "the old mill by the river open from monday till friday closed on sundays please ring the bell"
)
VARIANTS = ("product", "no enlargement", "orientation classifier")
TOLD = {"real: page": "scan", "pages of 10 points": "print", "scenes": "scene"}
"""Set → its name in the last line."""
MAX_PIXELS = 50_000_000


@dataclass(frozen=True)
class Picture:
    image: Image.Image
    text: str
    """What is printed in it."""


@dataclass(frozen=True)
class Score:
    word_accuracy: float
    character_error_rate: float
    invented: float
    """Share of the words read that are not there; of images without text, the share that any was read in."""
    images_per_second: float


def real() -> dict[str, list[Picture]]:
    """Set → pictures: each with a transcript a set of its own, all without text one."""
    sets: dict[str, list[Picture]] = {"real pictures": []}
    without = []
    for file in sorted(PICTURES.iterdir()):
        if file.suffix not in (".png", ".jpg") or file.name == HANDWRITING:
            continue
        transcript = TRANSCRIPTS / f"{file.stem}.txt"
        image = decode_image(file.read_bytes(), MAX_PIXELS)
        if transcript.exists():
            sets[f"real: {file.stem}"] = [Picture(image, transcript.read_text("utf-8"))]
            sets["real pictures"] += sets[f"real: {file.stem}"]
        elif not file.stem.startswith("motorcycle"):  # the right eye's view shows what the left one's does
            without.append(Picture(image, ""))
    return {**sets, "real, without text": without}


def page(size: int, seed: int) -> Picture:
    """Twelve rows in letters of `size` points; capitals are two thirds of it high, in pixels."""
    rng, font, words, rows = random.Random(seed), ImageFont.load_default(size), TEXT.split(), []
    image = Image.new("RGB", (500, round(12 * size * 1.6) + 20), (245, 245, 240))
    for number in range(12):
        row = rng.choice(words)
        while font.getlength(longer := f"{row} {rng.choice(words)}") < 470:
            row = longer
        ImageDraw.Draw(image).text((12, 10 + round(number * size * 1.6)), row, (40, 40, 40), font)
        rows.append(row)
    return Picture(image, "\n".join(rows))


def scenes(num: int) -> dict[str, list[Picture]]:
    with_word: list[Picture] = []
    without: list[Picture] = []
    number = 0
    while min(len(with_word), len(without)) < num:
        members = sample("pretrain", 77, number)
        number += 1
        words = [word["text"] for word in json.loads(members["truth.json"])["words"]]
        image = decode_image(members.get("png") or members["jpg"], MAX_PIXELS)
        (with_word if words else without).append(Picture(image, "\n".join(words)))
    return {"scenes": with_word[:num], "scenes, without text": without[:num]}


@contextmanager
def variant(name: str) -> Iterator[reading.Reader]:
    """The reader of the product, or with one thing otherwise."""
    usual, reader = reading.MAX_ENLARGEMENT, reading.RapidReader(0.5)
    if name == "no enlargement":
        reading.MAX_ENLARGEMENT = 1.0
    reader._engine.use_cls = name == "orientation classifier"
    reader.read(Image.new("RGB", (100, 100)))
    try:
        yield reader
    finally:
        reading.MAX_ENLARGEMENT = usual


def score(reader: reading.Reader, pictures: list[Picture]) -> Score:
    began = time.process_time()
    said = ["\n".join(line.text for line in reader.read(picture.image)) for picture in pictures]
    seconds = time.process_time() - began
    pairs = [(read, picture.text) for read, picture in zip(said, pictures, strict=True)]
    return Score(
        mean(word_accuracy(read, text) for read, text in pairs),
        mean(character_error_rate(read, text) for read, text in pairs),
        mean(1 - word_precision(read, text) for read, text in pairs),
        len(pictures) / seconds,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=300, help="with a word, and as many without")
    parser.add_argument("--to", type=Path, help="folder for the dated result")
    args = parser.parse_args()
    sets = real() | {f"pages of {size} points": [page(size, seed) for seed in range(5)] for size in (8, 10, 12, 16)}
    sets |= scenes(args.scenes)
    figures: dict[str, float] = {}
    rows = []
    for name in VARIANTS:
        with variant(name) as reader:
            for about, pictures in sets.items():
                found = score(reader, pictures)
                if name == VARIANTS[0] and about in TOLD:
                    figures[f"{TOLD[about]}_word_accuracy"] = round(found.word_accuracy, 4)
                    figures[f"{TOLD[about]}_images_per_second"] = round(found.images_per_second, 1)
                shares = (found.word_accuracy, found.character_error_rate, found.invented)
                cells = [about, len(pictures), name, *(f"{share:.3f}" for share in shares)]
                rows.append(f"| {' | '.join(map(str, cells))} | {found.images_per_second:.1f} |")
                print(rows[-1])
    last = json.dumps(figures)
    if args.to:
        heads = "| set | images | read by | word accuracy | character error rate | invented | images/s |"
        rule = "|---|---|---|---|---|---|---|"
        made = f"`python benchmarks/ocr.py` on {platform.processor() or platform.machine()}, by seconds of one core."
        about = (
            "*Invented*: share of the words read that are not there; of images without text, the share in which any "
            "word was read (their word accuracy says nothing, their error rate is that share)."
        )
        head = f"# Reading printed text, {date.today().isoformat()}\n\n{made}\n{about}\n\n{heads}\n{rule}\n"
        text = head + "\n".join(rows) + f"\n\n```json\n{last}\n```\n"
        (args.to / "ocr.md").write_text(text, "utf-8")
    print(last)


if __name__ == "__main__":
    main()
