from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import struct
import zipfile
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vila2_ray.config.serving import ServeConfig
from vila2_ray.serve.intake import from_base64, from_data_url, picture
from vila2_ray.serve.problems import Problem

SETTINGS = ServeConfig(max_pixels=1_000_000, max_body_mb=1.0)

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")


def encoded(format: str, size: tuple[int, int] = (7, 5), exif: Image.Exif | None = None) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, "red").save(out, format, **({"exif": exif} if exif else {}))
    return out.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def webp_header(width: int, height: int) -> bytes:
    sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + sizes
    return b"RIFF" + struct.pack("<I", len(body)) + body


def problem(data: bytes, field: str = "images[0].data") -> Problem:
    with pytest.raises(Problem) as caught:
        picture(data, SETTINGS, field)
    return caught.value


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_pictures_are_known_by_their_content(format: str) -> None:
    data = encoded(format)
    found = picture(data, SETTINGS)
    assert (found.media_type, found.width, found.height) == (f"image/{format.lower()}", 7, 5)
    assert (found.data, found.image_key) == (data, hashlib.sha256(data).hexdigest())


def test_sizes_are_those_of_the_upright_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    found = picture(encoded("JPEG", exif=exif), SETTINGS)
    assert (found.width, found.height) == (5, 7)


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as opened:
        opened.writestr("evil.html", "<script>")
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 422),
        (b"\xff\xd8\xff", 422),
        (b"\xff\xd8\xff<html><script>alert(1)</script></html>", 422),
        (b"\xff\xd8\xff" + zipped(), 422),
        (b"GIF89a/*<script>*/=1;", 422),
        (encoded("PNG")[:20], 422),
        (encoded("JPEG")[:30], 422),
        (encoded("WEBP")[:14], 422),
        (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", 415),
        (b"%PDF-1.7\n", 415),
        (b"RIFF\x24\0\0\0WAVEfmt ", 415),
        (zipped(), 415),
        (b"\0\0\0\x18ftypheic", 415),
        (b"\x7fELF", 415),
        (png_header(100_000, 100_000), 413),
        (png_header(2**31 - 1, 1), 413),
        (png_header(1001, 1000), 413),
        (png_header(0, 5), 422),
        (b"\xff\xd8\xff" + b"\0" * 2**20, 413),
    ],
)
def test_what_is_no_picture_of_bounded_size_is_the_senders_fault(data: bytes, status: int) -> None:
    found = problem(data)
    assert found.status == status, found
    assert found.extra["field"] == "images[0].data"
    assert found.detail.startswith("images[0].data: ")
    assert ": send " in found.detail
    assert " object at " not in found.detail


def test_a_webp_that_promises_the_world_costs_nothing() -> None:
    assert problem(webp_header(16_383, 16_383)).status in (413, 422)


def test_a_long_thin_picture_is_none() -> None:
    with pytest.raises(Problem) as caught:
        picture(png_header(70_000, 1), ServeConfig())
    assert caught.value.status == 413


@given(
    st.binary(max_size=300), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0"])
)
@settings(max_examples=150, deadline=None)
def test_no_bytes_do_more_than_be_refused(data: bytes, start: bytes) -> None:
    with contextlib.suppress(Problem):
        picture(start + data, SETTINGS)


@given(st.binary(min_size=1, max_size=500))
@settings(deadline=None)
def test_base64_comes_back_whole_with_and_without_line_breaks(data: bytes) -> None:
    text = base64.b64encode(data).decode()
    assert from_base64(text) == data
    assert from_base64(base64.encodebytes(data).decode()) == data
    assert from_data_url(f"data:image/png;base64,{text}") == data
    assert from_data_url(f"DATA:;charset=x;BASE64,{text}") == data


@given(st.text(max_size=80))
@settings(deadline=None)
def test_any_text_is_bytes_or_a_problem(text: str) -> None:
    for read in (from_base64, from_data_url):
        with contextlib.suppress(Problem):
            assert read(text)


@pytest.mark.parametrize(
    "text", ["", "=", "a", "abc", "ab-_", "äöü=", "AAAA=A", "\ud800AAA", "data:image/png;base64,AAAA"]
)
def test_base64_that_is_none(text: str) -> None:
    with pytest.raises(Problem) as caught:
        from_base64(text, "images[2].data")
    assert caught.value.extra["field"] == "images[2].data"


@pytest.mark.parametrize(
    "url", ["", "data:", "data:,AAAA", "data:image/png,AAAA", "data:image/png;base64", "data:;base64,", "http://x/"]
)
def test_data_urls_that_are_none(url: str) -> None:
    with pytest.raises(Problem) as caught:
        from_data_url(url)
    assert caught.value.status == 422


def test_a_problem_shows_the_beginning_of_what_was_sent_only() -> None:
    with pytest.raises(Problem) as caught:
        from_base64("!" * 100_000)
    assert len(caught.value.detail) < 200
