"""Pictures as they come in: what they are by content, how large, and whether they may be. No pixel is decoded here."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import sys
from dataclasses import dataclass

from vila2_ray.config.serving import ServeConfig
from vila2_ray.corpus.images import image_format, image_size
from vila2_ray.errors import SampleError
from vila2_ray.serve.problems import Problem, problem_of

_MAX_SIDE = 65_500
"""Pixels: what JPEG can tell. More is no picture, whatever its area."""
_DATA_URL = re.compile(r"data:(?P<type>[^,;]{0,127})(?P<more>(?:;[^,;]{0,127}){0,8}),", re.IGNORECASE)
_REMEDIES = {
    413: "send a smaller picture",
    415: "send a JPEG, PNG, WebP, GIF, BMP or TIFF file; its content decides, neither its name nor its declared type",
    422: "send the whole file, as it is on disk",
}


@dataclass(frozen=True)
class Picture:
    """A file whose header says that it is a picture of a size that may be."""

    data: bytes
    """As it came, encoded."""
    image_key: str
    """sha256 of `data`, hexadecimal."""
    media_type: str
    """By content, for example image/jpeg."""
    width: int
    """Upright, in pixels."""
    height: int


def picture(data: bytes, settings: ServeConfig, field: str = "image") -> Picture:
    """The picture that these bytes are; `field` is how the request calls them.

    Raises Problem: 415 for other types, 413 for too many bytes or pixels, 422 for broken ones. A header that promises
    pixels which are not there is found only where they are decoded. Reads some hundred bytes and hashes all of them:
    some milliseconds for each 2 MB.
    """
    limit = int(settings.max_body_mb * 2**20)
    if len(data) > limit:
        detail = f"{len(data):,} bytes, more than {limit:,}: {_REMEDIES[413]}"
        raise Problem(413, "image-too-large", "Too many bytes", detail).about(field)
    try:
        width, height = image_size(data, settings.max_pixels)
    except SampleError as error:
        told = problem_of(error)
        detail = f"{told.detail.rstrip('.')}: {_REMEDIES.get(told.status, _REMEDIES[422])}"
        raise Problem(told.status, told.slug, told.title, detail, None, told.extra).about(field) from error
    if max(width, height) > _MAX_SIDE:
        detail = f"{width} × {height} pixels, a side longer than {_MAX_SIDE:,}: {_REMEDIES[413]}"
        raise Problem(413, "image-too-large", "Too many pixels", detail).about(field)
    media_type = f"image/{image_format(data).lower()}"
    return Picture(data, hashlib.sha256(data).hexdigest(), media_type, width, height)


def from_base64(text: str, field: str = "data") -> bytes:
    """The bytes of a base64 text, line breaks allowed. Raises Problem 422."""
    if text[:5].lower() == "data:":
        raise _malformed(field, text, "is a data: URL: give it as url, or only what follows its comma")
    try:
        data = _decoded("".join(text.split()).encode("ascii"))
    except (ValueError, binascii.Error) as error:  # the first: not ASCII
        raise _malformed(field, text, "not base64: A–Z, a–z, 0–9, + and /, filled up with = to fours") from error
    if not data:
        raise _malformed(field, text, "0 bytes: send the whole file, base64-encoded")
    return data


def from_data_url(url: str, field: str = "url") -> bytes:
    """The bytes of a `data:…;base64,…` URL; the type that it declares is not believed. Raises Problem 422."""
    head = _DATA_URL.match(url)
    if head is None:
        raise _malformed(field, url, "not a data: URL: data:image/jpeg;base64,<the file in base64>")
    if not head["more"].lower().endswith(";base64"):
        raise _malformed(field, url, "a data: URL without ;base64 before its comma; pictures are sent base64-encoded")
    return from_base64(url[head.end() :], field)


def _decoded(text: bytes) -> bytes:
    if sys.version_info >= (3, 11):  # base64's own check is a regular expression: a second for each 16 MB
        return binascii.a2b_base64(text, strict_mode=True)
    return base64.b64decode(text, validate=True)


def _malformed(field: str, text: str, remedy: str) -> Problem:
    shown = f"{text[:30]}…" if len(text) > 30 else text
    return Problem(422, "image-malformed", "The picture is not encoded well", f"{shown!r} is {remedy}").about(field)
