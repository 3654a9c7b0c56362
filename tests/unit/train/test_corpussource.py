from __future__ import annotations

from pathlib import Path

from tests.unit.train import small
from vila2_ray.train.packplan import ItemKey
from vila2_ray.train.reading import fetch_items
from vila2_ray.train.source import ImageKey
from vila2_ray.train.work import open_source


def counted(monkeypatch, source) -> list[tuple[int, int]]:
    """Sizes of the pictures that the source makes pixels of, as it does."""
    made, make = [], source._tokenizer.pixels
    monkeypatch.setattr(source._tokenizer, "pixels", lambda image: (made.append(image.size), make(image))[1])
    return made


def test_images_are_read_together_and_decoded_one_by_one(tmp_path: Path, monkeypatch) -> None:
    source = open_source(small.job(tmp_path))
    made = counted(monkeypatch, source)
    keys = [ItemKey("pretrain", f"{shard:05d}", row, 0) for shard in (0, 1) for row in range(6)]
    fetched = fetch_items(source, keys)
    images = [ImageKey(*key[:3]) for key in keys]
    assert list(fetched.pixels) == images
    assert all(image in fetched.pixels for image in images)
    assert not made
    held = fetched.pixels[images[7]]
    assert fetched.pixels[images[7]] is held
    assert len(made) == 1
    assert all(made is not None for made in fetched.pixels.values())
    assert len(made) == 12


def test_an_image_that_is_kept_is_not_read_again(tmp_path: Path, monkeypatch) -> None:
    source = open_source(small.job(tmp_path, "align", "train.align.trained=[vision,connector]"))
    made = counted(monkeypatch, source)
    key = ImageKey("pretrain", "00001", 3)
    first = source.pixels([key])[0]
    assert source.pixels([key, key])[1] is first
    assert len(made) == 1


def test_an_image_that_cannot_be_decoded_is_none(tmp_path: Path) -> None:
    shards = small.write_shards(tmp_path / "bad", bad=2)
    source = open_source(small.job(tmp_path, shards=shards))
    pixels = source.pixels([ImageKey("pretrain", "00000", row) for row in (1, 2)])
    assert [made is None for made in pixels] == [False, True]
