"""Printed text read by RapidOCR: PP-OCRv6 detection and recognition under ONNX Runtime, on the CPU.

Reads Latin, Chinese and Japanese; letters of other scripts come out as look-alikes. The models lie in RapidOCR's wheel
(Apache-2.0) and are loaded by path, so that nothing is ever downloaded.

Orientation of single lines is not classified: on lines that stand upright the classifier does far more harm than it
helps on those that do not (benchmarks/ocr.py). Text that is upside down is therefore not read.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from vila2_ray.captions.boxes import MAX_COORDINATE, Box
from vila2_ray.errors import ConfigError, Reason, SampleError, in_one_line
from vila2_ray.experts.language import tell_languages
from vila2_ray.skills.readingorder import reading_order
from vila2_ray.skills.things import Line

ENLARGED_PIXELS = 800_000
"""Smaller images are enlarged towards it: letters of 8 to 12 pixels are read with more confidence then."""
MAX_ENLARGEMENT = 2.5
"""Beyond it nothing is gained, and spaces between words begin to be lost."""
MAX_PIXELS = 4_000_000
MAX_SIDE = 4096
"""Larger images are reduced to these; bounds memory (1 GB) and time (3 s on one core)."""
SURE_SCORE = 0.97
SURENESS_STEP = 0.1
"""A line with one different letter or digit must be so sure, with each further one by this step less: round things
look like an O, stripes like a 一, and no longer word looks like anything else."""
_MODELS = {"Det": "PP-OCRv6_det_small.onnx", "Rec": "PP-OCRv6_rec_small.onnx"}


class Reader(Protocol):
    """Reads what is printed in images."""

    def read(self, image: Image.Image) -> tuple[Line, ...]:
        """Lines of an image in reading order; none where nothing is printed. Raises SampleError (ENGINE_ERROR)."""


def open_reader(min_score: float = 0.5) -> Reader:
    """The OCR engine, loaded, of one thread. Lines of less confidence than `min_score` are left out.

    Raises ConfigError when the engine is not installed, or without its models.
    """
    return RapidReader(min_score)


class RapidReader:
    """A RapidOCR engine. Deterministic; pickled by its setting alone and loaded anew where it is unpickled."""

    def __init__(self, min_score: float) -> None:
        self._min_score = min_score
        self._engine = _load()

    def __reduce__(self) -> tuple[type, tuple[float]]:
        return type(self), (self._min_score,)

    def read(self, image: Image.Image) -> tuple[Line, ...]:
        rgb = image.convert("RGB")
        scale = _scale(*rgb.size)
        size = max(1, round(rgb.width * scale)), max(1, round(rgb.height * scale))
        if size != rgb.size:
            rgb = rgb.resize(size, Image.Resampling.BICUBIC)
        try:
            found = self._engine(np.ascontiguousarray(np.asarray(rgb)[:, :, ::-1]))  # OpenCV's order: BGR
        except Exception as error:  # OpenCV, ONNX Runtime and the engine raise their own on odd pictures
            raise SampleError(Reason.ENGINE_ERROR, f"OCR: {in_one_line(error)}") from error
        if not found.txts:
            return ()
        lines = [
            Line(" ".join(text.split()), _box(corners, *size), round(float(score), 4))
            for text, corners, score in zip(found.txts, found.boxes, found.scores, strict=True)
            if score >= max(self._min_score, _least_score(text))
        ]
        return reading_order(tell_languages(lines), size[0] / size[1])


def _scale(width: int, height: int) -> float:
    """Factor that an image of this size in pixels is read at."""
    area = width * height
    enlarged = min(MAX_ENLARGEMENT, math.sqrt(ENLARGED_PIXELS / area))
    return min(max(1.0, enlarged), math.sqrt(MAX_PIXELS / area), MAX_SIDE / max(width, height))


def _least_score(text: str) -> float:
    num_different = len({char for char in text.casefold() if char.isalnum()})
    return SURE_SCORE - SURENESS_STEP * (num_different - 1) if num_different else math.inf


def _box(corners: np.ndarray, width: int, height: int) -> Box:
    """Thousandths that hold the four corners [4, 2] in pixels; clipped to the image, never empty."""
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    (xmin, xmax), (ymin, ymax) = _span(left / width, right / width), _span(top / height, bottom / height)
    return Box(xmin, ymin, xmax, ymax)


def _span(start: float, stop: float) -> tuple[int, int]:
    low = min(max(int(start * 1000), 0), MAX_COORDINATE - 1)
    return low, min(max(int(stop * 1000), low + 1), MAX_COORDINATE)


def _load() -> Any:
    for package in ("rapidocr", "onnxruntime", "py3langid"):
        if importlib.util.find_spec(package) is None:
            raise ConfigError("skills.ocr", package, "reading needs this package: pip install 'vila2-ray[ocr]'")
    import cv2
    import rapidocr

    cv2.setNumThreads(1)  # one engine per process, and processes are what is scaled
    settings: dict[str, Any] = {
        "Global.log_level": "critical",  # it warns of every image without text
        "Global.text_score": 0.0,  # chosen by `read`
        "Global.use_cls": False,
        "Global.use_preprocess_img": False,  # images are scaled here: its own scaling fails on narrow ones
        "Global.width_height_ratio": -1,  # nor padded to a square, which takes gigabytes for a long strip
        "Det.limit_type": "max",
        "Det.limit_side_len": MAX_SIDE,
        "EngineConfig.onnxruntime.intra_op_num_threads": 1,
        "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    }
    for part, name in _MODELS.items():
        path = Path(rapidocr.__file__).parent / "models" / name
        if not path.is_file():  # else the engine would download another
            raise ConfigError("skills.ocr", f"rapidocr without {name}", "install the release that has it: 3.10.0")
        settings[f"{part}.model_path"] = str(path)
    return rapidocr.RapidOCR(params=settings)
