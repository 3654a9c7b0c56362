"""From the bytes of a picture, whoever made them, to RGB pixels of bounded size."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from vila2_ray.errors import Reason, SampleError

# Once for the process: changing the filters around each decode would not be safe between threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # the size is checked here
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # broken metadata of a picture that is fine

_SIGNATURES = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "WEBP": (b"RIFF",),
    "GIF": (b"GIF8",),
    "BMP": (b"BM",),
    "TIFF": (b"II*\0", b"MM\0*"),
}
"""Formats that are read; every other decoder of PIL stays shut. The content decides, never the file name."""

_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes the picture upright again, by the value of the Exif orientation tag."""
_PNG_TEXTS = frozenset({b"eXIf", b"iTXt", b"tEXt", b"zTXt"})
"""Chunks of a PNG that may hold the orientation."""

_QUARTER_TURNS = tuple(_TURNS[value] for value in (5, 6, 7, 8))
"""Those that exchange width and height."""


def decode_image(data: bytes, max_pixels: int) -> Image.Image:
    """Decode to an upright RGB image; the first frame of an animation, transparency on white.

    The header is checked before any pixel is decoded. `max_pixels` bounds width × height; PIL refuses more than twice
    its own `Image.MAX_IMAGE_PIXELS` in any case.

    Raises SampleError with reason IMAGE_UNREADABLE, IMAGE_TYPE or IMAGE_TOO_LARGE, and nothing else.
    """
    image = _checked(data, max_pixels)
    try:
        image.load()
        turn, rgb = _turn(image), _to_rgb(image)
        return rgb.transpose(turn) if turn is not None else rgb
    except (*_BOMBS, MemoryError) as error:
        raise SampleError(Reason.IMAGE_TOO_LARGE, _short(error)) from error
    except Exception as error:  # decoders raise anything on broken bytes
        raise SampleError(Reason.IMAGE_UNREADABLE, _short(error)) from error


def image_size(data: bytes, max_pixels: int) -> tuple[int, int]:
    """Width and height in pixels of the upright picture, from its header. Raises SampleError as `decode_image` does."""
    image = _checked(data, max_pixels)
    width, height = image.size
    if image.format == "TIFF":  # PIL turns these itself, and tells the size that they will have
        return width, height
    if image.format == "PNG" and (lean := _without_pixels(data)) is not None:
        image = _open(lean)
    return (height, width) if _turn(image) in _QUARTER_TURNS else (width, height)


def image_format(data: bytes) -> str:
    """What the content says it is: JPEG, PNG, WEBP, GIF, BMP, TIFF, or "" for anything else."""
    name = next((name for name, starts in _SIGNATURES.items() if data.startswith(starts)), "")
    return "" if name == "WEBP" and data[8:12] != b"WEBP" else name  # RIFF holds sound and video, too


def _checked(data: bytes, max_pixels: int) -> Image.Image:
    """The opened picture, no pixel of it decoded, of a size that may be."""
    image = _open(data)
    width, height = image.size
    if width < 1 or height < 1:
        raise SampleError(Reason.IMAGE_UNREADABLE, f"{width} × {height} pixels")
    if width * height > max_pixels:
        raise SampleError(Reason.IMAGE_TOO_LARGE, f"{width} × {height} pixels, more than {max_pixels:,}")
    return image


def _open(data: bytes) -> Image.Image:
    if not data:
        raise SampleError(Reason.IMAGE_UNREADABLE, "0 bytes")
    try:
        return Image.open(io.BytesIO(data), formats=list(_SIGNATURES))
    except _BOMBS as error:
        raise SampleError(Reason.IMAGE_TOO_LARGE, _short(error)) from error
    except UnidentifiedImageError as error:
        if image_format(data):
            raise SampleError(Reason.IMAGE_UNREADABLE, "broken header") from error
        begins = data[:12].decode("ascii", "replace").encode("unicode_escape").decode()
        raise SampleError(Reason.IMAGE_TYPE, f"none of {', '.join(_SIGNATURES)}; begins with {begins!r}") from error
    except Exception as error:  # as above
        raise SampleError(Reason.IMAGE_UNREADABLE, _short(error)) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_8_bit(np.asarray(image))).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        rgb = Image.new("RGB", rgba.size, "white")
        rgb.paste(rgba, mask=rgba.getchannel("A"))
        return rgb
    return image.convert("RGB")


def _to_8_bit(values: np.ndarray) -> np.ndarray:
    """Grey values [H, W] of 16 bits, 32 bits or floats to 0–255."""
    wide = np.nan_to_num(values.astype(np.float64))
    top = float(wide.max(initial=0.0))
    scale = 255.0 if values.dtype.kind == "f" and top <= 1.0 else 1.0
    if values.dtype.itemsize == 2 or (values.dtype.kind != "f" and top > 255):
        scale = 255.0 / 65535.0
    return np.clip(np.rint(wide * scale), 0, 255).astype(np.uint8)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What the orientation tag asks for."""
    try:
        exif = Image.Image.getexif(image)  # a PNG's own way to it would decode the picture
        return _TURNS.get(exif.get(_ORIENTATION, 1))
    except Exception:  # a broken tag costs the rotation, not the picture
        return None


def _without_pixels(png: bytes) -> bytes | None:
    """The file without its pixels, where something that may turn the picture stands behind them; else None."""
    kept, at, is_behind, tells_behind = [png[:8]], 8, False, False
    while at + 12 <= len(png):
        kind, end = png[at + 4 : at + 8], at + 12 + int.from_bytes(png[at : at + 4], "big")
        if kind == b"IDAT":
            is_behind = True
        else:
            kept.append(png[at:end])
            tells_behind = tells_behind or (is_behind and kind in _PNG_TEXTS)
        at = end
    return b"".join(kept) if tells_behind else None


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
