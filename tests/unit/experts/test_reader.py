"""The OCR engine, the real one: real pictures of text, composed scenes, sizes, strips, scripts."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageDraw, ImageFont

from vila2_ray.corpus.images import decode_image
from vila2_ray.errors import ConfigError, Reason, SampleError
from vila2_ray.experts import reader as module
from vila2_ray.experts.reader import Reader, open_reader
from vila2_ray.recipes.tiny.corpus import sample
from vila2_ray.skills.printed import character_error_rate, word_accuracy, word_precision
from vila2_ray.skills.things import Line

TREE = Path(__file__).parents[3]
PICTURES = Path(skimage.data.__file__).parent
WITHOUT_TEXT = (
    "camera.png",
    "cell.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "horse.png",
    "moon.png",
)


@pytest.fixture(scope="module")
def reader() -> Reader:
    return open_reader()


def picture(name: str) -> Image.Image:
    """A photograph or scan of scikit-image's, through the project's own decoder."""
    return decode_image((PICTURES / name).read_bytes(), 10_000_000)


def transcript(name: str) -> str:
    return (TREE / "tests" / "transcripts" / f"{name}.txt").read_text("utf-8")


def said(lines: tuple[Line, ...]) -> str:
    return "\n".join(line.text for line in lines)


def printed(*rows: tuple[str, int, int], size: int = 20, side: tuple[int, int] = (600, 200)) -> Image.Image:
    """Rows (text, x, y) of Pillow's font on white."""
    image = Image.new("RGB", side, "white")
    for text, x, y in rows:
        ImageDraw.Draw(image).text((x, y), text, (20, 20, 40), ImageFont.load_default(size))
    return image


def test_a_scanned_page(reader: Reader) -> None:
    lines, truth = reader.read(picture("page.png")), transcript("page")
    assert word_accuracy(said(lines), truth) >= 0.95
    assert word_precision(said(lines), truth) >= 0.95
    assert character_error_rate(said(lines), truth) <= 0.03, "in reading order"
    assert {line.language for line in lines} == {"en"}


def test_lettering_on_a_motorcycle(reader: Reader) -> None:
    """Small, slanted, embossed: what is read is there, much is not read."""
    lines = reader.read(picture("motorcycle_left.png"))
    assert word_precision(said(lines), transcript("motorcycle_left")) >= 0.5
    yamaha = next(line for line in lines if line.text == "YAMAHA")
    assert yamaha.box.xmin > 400, "right of the middle of the picture, where the engine is"
    assert {line.language for line in lines} == {""}, "a name is of no language"


@pytest.mark.parametrize("name", WITHOUT_TEXT)
def test_photographs_without_text(reader: Reader, name: str) -> None:
    assert reader.read(picture(name)) == ()


def test_signs_of_the_tiny_recipe(reader: Reader) -> None:
    """96 × 96 pixels, capitals 10 pixels high, among round things that look like an O."""
    right = invented = num_words = num_scenes = 0
    for number in range(60):
        members = sample("pretrain", 7, number)
        words = " ".join(word["text"] for word in json.loads(members["truth.json"])["words"])
        lines = reader.read(decode_image(members.get("png") or members["jpg"], 1_000_000))
        num_scenes += 1
        num_words += bool(words)
        right += bool(words) and word_accuracy(said(lines), words) == 1
        invented += word_precision(said(lines), words) < 1
    assert num_words >= 10
    assert right / num_words >= 0.95
    assert invented / num_scenes <= 0.03


def test_the_box_of_a_sign(reader: Reader) -> None:
    members = next(
        found for number in range(50) if json.loads((found := sample("pretrain", 7, number))["truth.json"])["words"]
    )
    (word,) = json.loads(members["truth.json"])["words"]
    (line,) = reader.read(decode_image(members.get("png") or members["jpg"], 1_000_000))
    assert line.box.is_valid
    assert np.abs(np.subtract(line.box, word["box"])).max() < 60, "within six pixels of the plate's edges"


def test_columns_in_reading_order(reader: Reader) -> None:
    left = [
        (text, 20, 20 + 40 * row) for row, text in enumerate(("The mill is old", "and has a wheel", "of dark wood"))
    ]
    right = [
        (text, 320, 20 + 40 * row) for row, text in enumerate(("Water runs in", "the river below", "all year long"))
    ]
    lines = reader.read(printed(*left, *right, size=24))
    assert said(lines).replace("\n", " ") == " ".join(text for text, _, _ in (*left, *right))


@pytest.mark.parametrize("size", [12, 14, 20, 60])
def test_letters_of_any_size(reader: Reader, size: int) -> None:
    """A size of 12 points makes capitals 8 pixels high."""
    image = printed(("Fresh bread daily", 10, 20), size=size)
    (line,) = reader.read(image)
    assert line.text == "Fresh bread daily"
    assert line.score > 0.9


@pytest.mark.parametrize("side", [(1, 1), (3, 900), (900, 3), (20, 30_000), (30_000, 20), (40, 40)])
def test_images_of_any_shape(reader: Reader, side: tuple[int, int]) -> None:
    assert reader.read(Image.new("RGB", side, "gray")) == ()


def test_a_long_strip_is_read(reader: Reader) -> None:
    lines = reader.read(printed(("no parking in front of this gate", 60, 20), size=30, side=(3000, 70)))
    assert said(lines) == "no parking in front of this gate"


def test_images_of_other_modes(reader: Reader) -> None:
    image = printed(("OPEN", 20, 20), size=40, side=(200, 100))
    assert [said(reader.read(image.convert(mode))) for mode in ("L", "RGBA", "P", "1", "CMYK")] == ["OPEN"] * 5


def test_confidence_below_the_minimum_is_left_out() -> None:
    lines = open_reader(0.0).read(picture("motorcycle_right.png"))
    score = sorted(line.score for line in lines)[0]
    assert score < 0.97
    sure = open_reader(score + 0.0001).read(picture("motorcycle_right.png"))
    assert set(sure) == {line for line in lines if line.score > score}


def test_reading_is_deterministic_also_after_pickling(reader: Reader) -> None:
    again = pickle.loads(pickle.dumps(reader))
    assert len(pickle.dumps(reader)) < 500, "the models do not travel"
    image = picture("page.png")
    assert reader.read(image) == reader.read(image) == again.read(image)


def test_no_download_and_no_second_thread() -> None:
    """Opening and reading need no network, and start no thread pool."""
    code = """
import socket, threading
def refuse(*a, **k): raise AssertionError("network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from PIL import Image
from vila2_ray.experts.reader import open_reader
import os
before = len(os.listdir("/proc/self/task"))
reader = open_reader()
reader.read(Image.new("RGB", (300, 300)))
print(len(os.listdir("/proc/self/task")) - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=TREE)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= 1, "OpenCV, ONNX Runtime and NumPy stay on the calling thread"
    assert "RapidOCR" not in done.stderr


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.importlib.util.find_spec
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None if name == "rapidocr" else real(name))
    with pytest.raises(ConfigError, match=r"rapidocr.*vila2-ray\[ocr\]"):
        open_reader()


def test_models_that_are_missing_are_never_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module._MODELS, "Det", "PP-OCRv9.onnx")
    with pytest.raises(ConfigError, match="without PP-OCRv9"):
        open_reader()


def test_an_engine_that_fails_costs_the_sample_only(monkeypatch: pytest.MonkeyPatch, reader: Reader) -> None:
    def fail(pixels: np.ndarray) -> None:
        raise RuntimeError("bad picture")

    monkeypatch.setattr(reader, "_engine", fail)
    with pytest.raises(SampleError, match="bad picture") as raised:
        reader.read(Image.new("RGB", (50, 50)))
    assert raised.value.reason is Reason.ENGINE_ERROR


def test_jpeg_bytes_are_read_like_png(reader: Reader) -> None:
    stream = io.BytesIO()
    printed(("Fresh bread daily", 10, 20), size=24).save(stream, "JPEG", quality=70)
    assert said(reader.read(decode_image(stream.getvalue(), 1_000_000))) == "Fresh bread daily"
