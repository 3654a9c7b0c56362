import io
import random

import pytest
from PIL import Image

from vila2_ray.report.pictures import MAX_BYTES, MAX_SIDE, thumbnail


@pytest.mark.parametrize("size", [(1, 1), (96, 96), (4000, 30), (30, 4000), (1500, 1500)])
def test_thumbnails_are_bounded_even_of_noise(size: tuple[int, int]) -> None:
    noise = Image.frombytes("RGB", size, random.Random(0).randbytes(3 * size[0] * size[1]))
    made = thumbnail(noise)
    assert len(made) <= MAX_BYTES
    again = Image.open(io.BytesIO(made))
    assert again.format == "JPEG"
    assert max(again.size) <= MAX_SIDE
    assert again.size <= size


def test_nothing_but_pixels_survives() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32)).save(buffer, "JPEG", comment=b"<script>", exif=b"Exif\0\0secret")
    assert b"secret" not in thumbnail(Image.open(buffer))
    assert b"<script>" not in thumbnail(Image.open(buffer))
