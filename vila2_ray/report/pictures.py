"""Thumbnails for the report: every image is decoded and encoded again, small and bounded, before it enters the page."""

from __future__ import annotations

import base64
import io

from PIL import Image

MAX_SIDE = 256
"""Pixels of the longer side."""
MAX_BYTES = 24_000


def thumbnail(image: Image.Image) -> bytes:
    """JPEG of at most MAX_BYTES and MAX_SIDE pixels a side, never larger than the image itself."""
    picture = image.convert("RGB")
    picture.info = {}  # comments and positions stay behind
    for side in (MAX_SIDE, MAX_SIDE * 3 // 4, MAX_SIDE // 2, MAX_SIDE // 4):
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        for quality in (90, 80, 65, 45):
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=quality, subsampling=0 if quality >= 80 else 2, optimize=True)
            if buffer.tell() <= MAX_BYTES:
                return buffer.getvalue()
    raise AssertionError("a 64-pixel JPEG is always smaller than the bound")


def size_of(picture: bytes) -> tuple[int, int]:
    """Width and height in pixels of a `thumbnail`."""
    return Image.open(io.BytesIO(picture)).size


def data_uri(picture: bytes) -> str:
    """A `thumbnail` as the `src` of an image that needs no network."""
    return "data:image/jpeg;base64," + base64.b64encode(picture).decode("ascii")
