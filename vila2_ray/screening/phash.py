"""A 64-bit perceptual hash: pictures that look alike get hashes that differ in few bits.

The DCT hash in the variant that the ImageHash library calls `phash`, so that lists of such hashes made elsewhere can be
used: grey, 32 × 32 (Lanczos), discrete cosine transform, the 8 × 8 lowest frequencies, each compared with their median.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

HASH_BITS = 64
_SIDE, _LOW = 32, 8


def _cosines() -> np.ndarray:
    """[8, 32]: rows of the DCT-II matrix for the lowest frequencies."""
    frequency, place = np.arange(_LOW)[:, None], np.arange(_SIDE)[None, :]
    return np.cos(np.pi * frequency * (2 * place + 1) / (2 * _SIDE))


_DCT = _cosines()


def perceptual_hash(image: Image.Image) -> int:
    """The hash of an RGB or grey picture, 0 … 2⁶⁴ − 1; the first bit is the lowest frequency's."""
    grey = image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    low = _DCT @ np.asarray(grey, dtype=np.float64) @ _DCT.T
    bits = (low > np.median(low)).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def to_hex(value: int) -> str:
    """16 hexadecimal digits, as tables and lists hold a hash."""
    return f"{value:016x}"
