from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps, PngImagePlugin

from vila2_ray.corpus.images import decode_image, image_format, image_size
from vila2_ray.errors import Reason, SampleError

MAX = 1_000_000

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")


def encode(image: Image.Image, format: str, **save: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **save)
    return out.getvalue()


def reason(data: bytes, max_pixels: int = MAX) -> Reason:
    with pytest.raises(SampleError) as caught:
        decode_image(data, max_pixels)
    return caught.value.reason


def png(
    width: int, height: int, depth: int, color: int, pixels: bytes, before: tuple[bytes, bytes] = (b"", b"")
) -> bytes:
    """A PNG of raw scan lines; `before`: kind and data of a chunk that comes before them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    more = chunk(*before) if before[0] else b""
    return b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def png_header(width: int, height: int, depth: int = 8, color: int = 2) -> bytes:
    """A PNG that promises a size and holds no pixels."""
    return png(width, height, depth, color, b"\0")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_formats_are_read_by_content(format: str) -> None:
    data = encode(Image.new("RGB", (7, 5), (200, 30, 30)), format)
    image = decode_image(data, MAX)
    assert (image.mode, image.size, image_format(data)) == ("RGB", (7, 5), format)
    assert np.abs(np.asarray(image, dtype=int) - (200, 30, 30)).max() <= 12


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_on_white(mode: str) -> None:
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.putpixel((0, 0), (10, 10, 10, 255))
    data = encode(image.quantize(4) if mode == "P" else image.convert(mode), "PNG")
    pixels = np.asarray(decode_image(data, MAX))
    assert pixels[3, 3].tolist() == [255, 255, 255]
    assert pixels[0, 0].max() <= 12


def test_grey_of_16_bits_keeps_its_range() -> None:
    values = np.array([[0, 32896], [65535, 257]], dtype=np.uint16)
    pixels = np.asarray(decode_image(encode(Image.fromarray(values), "PNG"), MAX))
    assert pixels[..., 0].tolist() == [[0, 128], [255, 1]]


def test_colour_of_16_bits_with_and_without_transparency() -> None:
    colour = png(2, 1, 16, 2, b"\0" + struct.pack(">6H", 65535, 32896, 0, 0, 257, 65535))
    assert np.asarray(decode_image(colour, MAX))[0].tolist() == [[255, 128, 0], [0, 1, 255]]
    clear = png(2, 1, 16, 6, b"\0" + struct.pack(">8H", 65535, 0, 0, 65535, 0, 0, 0, 0))
    assert np.asarray(decode_image(clear, MAX))[0].tolist() == [[255, 0, 0], [255, 255, 255]]
    grey = png(2, 1, 16, 4, b"\0" + struct.pack(">4H", 32896, 65535, 0, 0))
    assert np.asarray(decode_image(grey, MAX))[0].tolist() == [[128, 128, 128], [255, 255, 255]]


def test_a_palette_with_transparent_entries_lies_on_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 10, 10, 10, 200, 10])
    image.putpixel((1, 0), 1)
    pixels = np.asarray(decode_image(encode(image, "PNG", transparency=bytes([0, 255])), MAX))
    assert pixels[0].tolist() == [[255, 255, 255], [10, 200, 10]]


def test_one_bit_and_small_palettes() -> None:
    pixels = np.asarray(decode_image(encode(Image.fromarray(np.array([[True, False]])), "PNG"), MAX))
    assert pixels[0].tolist() == [[255] * 3, [0] * 3]


def test_float_and_wide_grey() -> None:
    floats = Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32))
    assert np.asarray(decode_image(encode(floats, "TIFF"), MAX))[0, :, 0].tolist() == [0, 128, 255]
    wide = Image.fromarray(np.array([[0, 65535]], dtype=np.int32))
    assert np.asarray(decode_image(encode(wide, "TIFF"), MAX))[0, :, 0].tolist() == [0, 255]


def test_cmyk_and_palette() -> None:
    assert decode_image(encode(Image.new("CMYK", (3, 3), (0, 255, 255, 0)), "JPEG"), MAX).getpixel((1, 1))[0] > 200
    assert decode_image(encode(Image.new("RGB", (3, 3), "blue").quantize(2), "PNG"), MAX).getpixel((0, 0)) == (
        0,
        0,
        255,
    )


def test_cmyk_as_adobe_writes_it_is_not_inverted() -> None:
    """Photoshop stores the complement of the inks and says so by a marker; libjpeg writes it the same way."""
    for inks, rgb in (((0, 0, 0, 0), (255, 255, 255)), ((0, 0, 0, 255), (0, 0, 0)), ((255, 0, 0, 0), (0, 255, 255))):
        data = encode(Image.new("CMYK", (16, 16), inks), "JPEG", quality=95)
        assert b"Adobe" in data[:64]
        assert np.abs(np.asarray(decode_image(data, MAX), dtype=int) - rgb).max() <= 6
    with Image.open(io.BytesIO(encode(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF"))) as tiff:
        assert tiff.mode == "CMYK"
    red = decode_image(encode(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF"), MAX)
    assert red.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_orientation_is_applied_once(orientation: int, format: str) -> None:
    corner, exif = np.full((16, 32, 3), 255, dtype=np.uint8), Image.Exif()
    corner[:8, :8] = 0
    exif[0x0112] = orientation
    data = encode(Image.fromarray(corner), format, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"), dtype=int)
    turned = np.asarray(decode_image(data, MAX), dtype=int)
    assert image_size(data, MAX) == turned.shape[1::-1]
    assert turned.shape == expected.shape == ((16, 32, 3) if orientation < 5 else (32, 16, 3))
    assert np.abs(turned - expected).max() < 3


@pytest.mark.parametrize("is_behind", [True, False])
def test_the_size_of_a_png_is_known_without_its_pixels(is_behind: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    plain, data = (encode(Image.new("RGB", (4, 2)), "PNG", **more) for more in ({}, {"exif": exif}))
    if is_behind:  # as some programs write it
        start = data.index(b"eXIf") - 4
        chunk = data[start : start + 12 + int.from_bytes(data[start : start + 4], "big")]
        data = data.replace(chunk, b"").replace(data[-12:], chunk + data[-12:])
    assert decode_image(data, MAX).size == (2, 4)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: 1 / 0)
    assert (image_size(plain, MAX), image_size(data, MAX)) == ((4, 2), (2, 4))


def test_orientation_with_transparency_or_broken() -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    assert decode_image(encode(Image.new("RGBA", (4, 2)), "PNG", exif=exif), MAX).size == (2, 4)
    exif[0x0112] = 99
    assert decode_image(encode(Image.new("RGB", (4, 2)), "PNG", exif=exif), MAX).size == (4, 2)
    assert decode_image(encode(Image.new("RGB", (4, 2)), "PNG", exif=b"Exif\0\0II*\0\xff\xff"), MAX).size == (4, 2)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(format: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "lime")]
    lossless = {"lossless": True} if format == "WEBP" else {}
    data = encode(frames[0], format, save_all=True, append_images=frames[1:], **lossless)
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == 3
    assert decode_image(data, MAX).getpixel((0, 0)) == (255, 0, 0)
    assert image_size(data, MAX) == (8, 8)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1)])
def test_tiny_and_thin_pictures(format: str, size: tuple[int, int]) -> None:
    data = encode(Image.new("RGB", size, (90, 90, 90)), format)
    assert decode_image(data, MAX).size == image_size(data, MAX) == size


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_truncated(format: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    data = encode(noise, format)
    assert reason(data[: len(data) // 2]) == Reason.IMAGE_UNREADABLE


def test_broken_and_empty() -> None:
    good = encode(Image.new("RGB", (8, 8)), "PNG")
    assert reason(b"") == Reason.IMAGE_UNREADABLE
    assert reason(good[:12]) == Reason.IMAGE_UNREADABLE
    assert reason(b"\xff\xd8\xff" + b"\0" * 100) == Reason.IMAGE_UNREADABLE
    assert reason(good[:50] + b"\xff" * 20 + good[70:]) == Reason.IMAGE_UNREADABLE


@pytest.mark.parametrize(
    "data",
    [
        b"<!DOCTYPE html><html>",
        b"%PDF-1.7",
        b"<svg xmlns=''/>",
        b"\0\0\0\x1cftypavif",
        b"P6 1 1 255 abc",
        b"RIFF\0\0\0\0WAVEfmt ",
    ],
)
def test_other_types_are_refused(data: bytes) -> None:
    assert reason(data) == Reason.IMAGE_TYPE


def test_formats_outside_the_list_are_not_tried() -> None:
    assert reason(encode(Image.new("RGB", (8, 8)), "ICO")) == Reason.IMAGE_TYPE
    assert reason(encode(Image.new("RGB", (8, 8)), "EPS")) == Reason.IMAGE_TYPE


@pytest.mark.parametrize("size", [(100_000, 100_000), (2**31 - 1, 2**31 - 1), (1001, 1000)])
def test_absurd_sizes_are_refused_before_decoding(size: tuple[int, int]) -> None:
    assert reason(png_header(*size)) == Reason.IMAGE_TOO_LARGE


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_no_pixel_is_decoded_of_what_is_too_large(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(Image.new("RGB", (200, 100)), format)

    def decoded(*_: Any) -> None:
        raise AssertionError("decoded")

    for image in (Image.Image, ImageFile.ImageFile):
        monkeypatch.setattr(image, "load", decoded)
    assert reason(data, 19_999) == Reason.IMAGE_TOO_LARGE
    with pytest.raises(SampleError, match="more than 19,999"):
        image_size(data, 19_999)


def test_the_limit_itself_is_allowed() -> None:
    assert decode_image(encode(Image.new("RGB", (40, 25)), "PNG"), 1000).size == (40, 25)
    assert reason(encode(Image.new("RGB", (41, 25)), "PNG"), 1000) == Reason.IMAGE_TOO_LARGE


def test_zero_pixels() -> None:
    assert reason(png_header(0, 5)) == Reason.IMAGE_UNREADABLE


def test_any_damage_is_a_sample_error() -> None:
    """Whatever a byte is changed to, decoding gives an RGB image or a SampleError."""
    rng = np.random.default_rng(1)
    noise = Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    refused = 0
    for format in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        good = encode(noise, format, **({"exif": exif} if format in ("JPEG", "PNG", "WEBP") else {}))
        for _ in range(80):
            data = bytearray(good)
            for at in rng.integers(0, len(data), 4):
                data[at] = rng.integers(0, 256)
            try:
                assert decode_image(bytes(data), MAX).mode == "RGB"
            except SampleError:
                refused += 1
    assert refused > 50
