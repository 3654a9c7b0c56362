"""Pictures for judges: bounded, bare, and of the sample that the captions are of."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.unit.corpus.conftest import Build
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.errors import Reason, SampleError
from vila2_ray.judge.pictures import encoded
from vila2_ray.judge.study import Pair, Shown


def corpus(folder: Path) -> Corpus:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "taken at home"
    members = [
        ("000.jpg", Build.picture("red", (1200, 600), "JPEG", exif=exif, comment=b"secret")),
        ("000.txt", b"a"),
        ("001.png", Build.picture("blue", (40, 30))),
        ("001.txt", b"b"),
        ("002.jpg", b"\xff\xd8\xff broken"),
        ("002.txt", b"c"),
    ]
    Build.tar(folder / "shards" / "00000.tar", members)
    return Build.corpus(folder / "shards", folder / "index", max_pixels=1_000_000)


def pair(row: int) -> Pair:
    return Pair(
        f"{row:016x}", "pretrain", "00000", row, f"00000/{row:03}", Shown("alt_text", 0, "a"), Shown("round-1", 0, "b")
    )


def test_it_is_bounded_upright_and_bare(tmp_path: Path) -> None:
    data, kind = encoded(corpus(tmp_path), pair(0), 500)
    shown = Image.open(io.BytesIO(data))
    assert (kind, shown.format, shown.size) == ("image/jpeg", "JPEG", (250, 500)), "turned as its tag says"
    assert not shown.getexif()
    assert "comment" not in shown.info
    assert b"home" not in data
    assert b"secret" not in data


def test_small_pictures_lose_nothing_and_are_not_enlarged(tmp_path: Path) -> None:
    data, kind = encoded(corpus(tmp_path), pair(1), 500)
    shown = Image.open(io.BytesIO(data))
    assert (kind, shown.size, shown.getpixel((7, 7))) == ("image/png", (40, 30), (0, 0, 255))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"row": 2, "sample_id": "00000/002"}, Reason.IMAGE_UNREADABLE),
        ({"sample_id": "00000/xyz"}, Reason.NO_IMAGE),
        ({"row": 77}, Reason.NO_IMAGE),
        ({"shard": "00009"}, Reason.NO_IMAGE),
    ],
)
def test_what_cannot_be_had_is_a_problem_of_the_sample(
    tmp_path: Path, changed: dict[str, object], reason: Reason
) -> None:
    with pytest.raises(SampleError) as caught:
        encoded(corpus(tmp_path), replace(pair(1), **changed), 500)  # type: ignore[arg-type]
    assert caught.value.reason is reason


def test_the_corpuss_bound_holds(tmp_path: Path) -> None:
    held = corpus(tmp_path)
    held.max_pixels = 1000
    with pytest.raises(SampleError, match="image_too_large"):
        encoded(held, pair(1), 500)
