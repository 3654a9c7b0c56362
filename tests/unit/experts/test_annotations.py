"""Annotations of every form, found again by image."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vila2_ray import nodecache
from vila2_ray.captions.boxes import Box
from vila2_ray.corpus.samples import Sample
from vila2_ray.errors import CorpusError
from vila2_ray.experts.annotationfiles import read_rows
from vila2_ray.experts.annotations import open_annotations
from vila2_ray.skills.things import Annotation, Line, Thing

CAT = Thing("cat", Box(1, 2, 30, 40), 0.75, 2.5)
OWN = Annotation((CAT,), (Line("Stop", Box(1, 1, 9, 9), 0.5, "en"),))
GRIT = {
    "key": "000001",
    "url": "https://images.invalid/1",
    "caption": "A cat and two dogs",
    "noun_chunks": [
        [0.0, 5.0, 0.1, 0.2, 0.5, 1.3, 0.9],
        [10.0, 18.0, 0.5, 0.5, 0.75, 0.75, 0.5],
        [0, 99, 0, 0, 1, 1, 1],
    ],
    "ref_exps": [[0, 18, 0.0, 0.0, 1.0, 1.0, 0.4]],
}
GRIT_READ = Annotation(
    (
        Thing("cat", Box(100, 200, 500, 999), 0.9, None, (0, 5)),
        Thing("two dogs", Box(500, 500, 750, 750), 0.5, None, (10, 18)),
    ),
    caption="A cat and two dogs",
)
GENOME = {"image_id": 7, "objects": [{"names": ["the tall Tree"], "x": 10, "y": 0, "w": 40, "h": 50}]}
GENOME_READ = Annotation((Thing("tall tree", Box(100, 0, 500, 999)),))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("VILA2_CACHE", str(folder))
    monkeypatch.setattr(nodecache, "_in_use", {})
    return folder


def sample(key: str, shard: str = "00000", image: bytes | None = None, **extra: Any) -> Sample:
    return Sample("web", shard, 0, key, image, "a text", extra)


def json_lines(path: Path, *rows: Any) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def picture(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height)).save(stream, "PNG")
    return stream.getvalue()


def test_own_form_by_sample_id_before_key(tmp_path: Path) -> None:
    other = Annotation((Thing("dog", Box(1, 2, 3, 4)),))
    uri = json_lines(
        tmp_path / "a.jsonl",
        {"sample_id": "00000/0001", "key": "0001", **OWN.as_json()},
        {"sample_id": "00001/0001", "key": "0001", **other.as_json()},
        {"key": "0002", "things": []},
    )
    found = open_annotations(uri)
    assert found.of(sample("0001")) == OWN
    assert found.of(sample("0001", "00001")) == other
    assert found.of(sample("0001", "elsewhere")) is None, "two different rows have this key"
    assert found.of(sample("0002", "elsewhere")) == Annotation(())
    assert (found.num_matched, found.num_unmatched) == (3, 1)
    assert (found.summary.num_rows, found.summary.num_things, found.summary.num_ambiguous) == (3, 2, 1)


@pytest.mark.parametrize(
    ("row", "asked", "is_found"),
    [
        ({"key": "images/cat.jpg"}, "images/cat", True),
        ({"file_name": "images/cat.jpg"}, "cat", True),
        ({"image": "cat.png"}, "images/cat", True),
        ({"id": 17}, "17", True),
        ({"key": "a/cat"}, "b/cat", False),
        ({"key": "cat.1"}, "cat.2", False),
        ({"key": "cat.1"}, "cat", False),
    ],
)
def test_by_file_name(tmp_path: Path, row: dict[str, Any], asked: str, is_found: bool) -> None:
    found = open_annotations(json_lines(tmp_path / "a.jsonl", {**row, "things": []}))
    assert (found.of(sample(asked)) is not None) == is_found


def test_by_url_and_by_carried_id(tmp_path: Path) -> None:
    found = open_annotations(json_lines(tmp_path / "a.jsonl", GRIT, {"id": "x9", "things": []}))
    assert found.of(sample("77", url="https://images.invalid/1")) == GRIT_READ
    assert found.of(sample("78", id="x9")) == Annotation(())


@pytest.mark.parametrize("form", ["jsonl", "parquet", "parquet of JSON", "list"])
def test_grit(tmp_path: Path, form: str) -> None:
    path = tmp_path / form.split()[0]
    if form == "jsonl":
        uri = json_lines(path.with_suffix(".jsonl"), GRIT)
    elif form == "list":
        path = path.with_suffix(".json")
        path.write_text(json.dumps([GRIT], indent=1))
        uri = str(path)
    else:
        rows = [{**GRIT, "jpg": b"\xff", "extra": 1.5}]
        if form == "parquet of JSON":
            rows = [{**row, **{name: json.dumps(GRIT[name]) for name in ("noun_chunks", "ref_exps")}} for row in rows]
        uri = str(path.with_suffix(".parquet"))
        pq.write_table(pa.Table.from_pylist(rows), uri)
    found = open_annotations(uri)
    assert found.of(sample("000001")) == GRIT_READ
    assert found.summary.num_bad_things == 1
    assert "row 0: characters 0–99 of a caption of 18" in found.summary.examples[0]


def test_grit_falls_back_to_referring_expressions_and_to_the_samples_own_columns(tmp_path: Path) -> None:
    only = {"key": "1", "caption": "a cat", "noun_chunks": [], "ref_exps": [[0, 5, 0.0, 0.0, 0.5, 0.5]]}
    found = open_annotations(json_lines(tmp_path / "a.jsonl", only))
    expected = Annotation((Thing("cat", Box(0, 0, 500, 500), 1.0, None, (0, 5)),), caption="a cat")
    assert found.of(sample("1")) == expected
    carried = {name: value for name, value in GRIT.items() if name != "key"}
    assert found.of(sample("9", **carried)) == GRIT_READ
    assert found.of(sample("9", noun_chunks="[[")) is None


@pytest.mark.parametrize("told_by", ["row", "sizes", "original", "columns", "image", "nobody"])
def test_visual_genome_is_in_pixels_of_an_image_of_some_size(tmp_path: Path, told_by: str) -> None:
    size = {"width": 100, "height": 50}
    row = {**GENOME, **(size if told_by == "row" else {})}
    (tmp_path / "objects.json").write_text(json.dumps([row]))
    if told_by == "sizes":
        (tmp_path / "z_image_data.json").write_text(json.dumps([{"image_id": 7, **size}]))
    extra: dict[str, Any] = {"width": 9, "height": 9} if told_by in ("row", "sizes", "original") else {}
    extra |= {"original_width": 100, "original_height": 50} if told_by == "original" else {}
    extra |= size if told_by == "columns" else {}
    found = open_annotations(str(tmp_path))
    asked = sample("7", image=picture(100, 50) if told_by == "image" else b"broken", **extra)
    assert found.of(asked) == (None if told_by == "nobody" else GENOME_READ)
    assert found.num_without_size == (told_by == "nobody")


def test_bad_rows_and_things_are_counted_and_named(tmp_path: Path) -> None:
    things = [
        {"name": "cat", "box": [1, 2, 30, 40], "score": 0.75, "depth": 2.5},
        {"name": "", "box": [1, 2, 3, 4]},
        {"name": "dog", "box": [9, 9, 1, 1]},
        {"name": "dog", "box": [1, 2, 3]},
        {"name": "dog"},
        {"name": "dog", "box": [1, 2, 3, float("nan")]},
        {"name": "dog", "box": [1, 2, 3, 4], "depth": "far"},
        {"name": "dog", "box": [10**400, 2, 3, 4]},
        "dog",
        None,
    ]
    uri = json_lines(
        tmp_path / "a.jsonl", "{not json", {"key": "1", "things": things}, {"things": []}, "[]", {"key": "2"}
    )
    found = open_annotations(uri)
    assert found.of(sample("1")) == Annotation((CAT,))
    assert (found.summary.num_rows, found.summary.num_bad_rows, found.summary.num_bad_things) == (1, 4, 9)
    assert found.summary.examples[0] == "a.jsonl, row 0: is not JSON"
    assert "dog" not in str(found.of(sample("1")))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"images": [], "annotations": []}', "in no form that is known: row 0 names no image"),
        ('{"key": "1", "text": "a cat"}', "row 0 has none of the fields things"),
        ("", "holds no annotation"),
        ("[]", "holds no annotation"),
        ("hello", "neither Parquet nor JSON"),
        ('[{"key": "1", "things": []}', "does not end"),
        ('[{"key": "1", "things": [}]', "not JSON"),
        ("PAR1 but not really", "not a readable Parquet file"),
        ('{"image_id": 1, "width": 3, "height": 4}', "holds no annotation"),
    ],
)
def test_files_that_cannot_be_used_are_refused_by_name(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(CorpusError, match=told) as caught:
        open_annotations(str(tmp_path / "a.json"))
    assert "a.json" in str(caught.value)
    assert caught.value.remedy


def test_no_file_there(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no file there"):
        open_annotations(str(tmp_path / "missing.jsonl"))
    (tmp_path / "00000.tar").write_bytes(b"x")
    with pytest.raises(CorpusError, match=r"no annotation file there"):
        open_annotations(str(tmp_path))


def test_a_database_is_made_once_for_files_that_do_not_change(tmp_path: Path, cache: Path) -> None:
    uri = json_lines(tmp_path / "a.jsonl", {"key": "1", "things": []})
    opened = [open_annotations(uri) for _ in range(2)]
    assert [found.of(sample("1")) for found in opened] == [Annotation(())] * 2
    assert len(list(cache.rglob("*.sqlite"))) == 1
    json_lines(tmp_path / "a.jsonl", {"key": "1", "things": []}, {"key": "2", "things": []})
    assert open_annotations(uri).of(sample("2")) == Annotation(())
    assert opened[0].of(sample("1")) == Annotation(())


def test_a_long_list_is_read_piece_by_piece(tmp_path: Path) -> None:
    rows = [{"key": str(n), "text": "é" * (3_000_000 if n == 1 else 400_000)} for n in range(4)]
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf \n" + json.dumps(rows, ensure_ascii=False).encode())
    assert list(read_rows(str(tmp_path / "a.json"))) == list(enumerate(rows))
