from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vila2_ray.config import ColumnsConfig
from vila2_ray.corpus import parquet
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.errors import CorpusError, Reason


def write(tmp_path: Path, columns: dict[str, Any], **options: Any) -> Path:
    path = tmp_path / "s" / "00000.parquet"
    path.parent.mkdir(exist_ok=True)
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path, **options)
    return path


def test_rows_of_many_groups(build: Any, tmp_path: Path) -> None:
    pictures = [build.picture((i, 0, 0)) for i in range(100)]
    columns = {"key": [f"k{i}" for i in range(100)], "image": pictures, "caption": [f"alt {i}" for i in range(100)]}
    write(tmp_path, {**columns, "license": ["CC0"] * 100, "width": [8] * 100}, row_group_size=30)
    corpus = build.corpus(tmp_path / "s", tmp_path / "i")
    samples = list(corpus.read("00000", range(25, 65)))
    assert [s.row for s in samples] == list(range(25, 65))
    assert [s.image for s in samples] == pictures[25:65]
    assert (samples[0].sample_id, samples[0].alt_text) == ("00000/k25", "alt 25")
    assert samples[0].extra == {"license": "CC0", "width": 8}
    assert [s.key for s in corpus.read("00000", [90, 2, 2])] == ["k90", "k2", "k2"]
    texts = list(corpus.read("00000", [0, 99], images=False))
    assert [(s.image, s.problem, s.alt_text) for s in texts] == [(None, None, "alt 0"), (None, None, "alt 99")]


def test_only_the_needed_row_group_is_read(build: Any, tmp_path: Path) -> None:
    """The bytes of the other groups are destroyed, and nobody notices."""
    columns = {"image": [bytes([i]) * 5000 for i in range(40)], "caption": [f"{i}" for i in range(40)]}
    path = write(tmp_path, columns, row_group_size=10, compression="none", use_dictionary=False)
    corpus = build.corpus(tmp_path / "s", tmp_path / "i")
    corpus.index("00000")
    group = pq.ParquetFile(path).metadata.row_group(0).column(0)
    data = bytearray(path.read_bytes())
    data[group.data_page_offset : group.data_page_offset + group.total_compressed_size] = (
        b"\xff" * group.total_compressed_size
    )
    path.write_bytes(data)
    assert [s.alt_text for s in corpus.read("00000", range(10, 13))] == ["10", "11", "12"]
    with pytest.raises(CorpusError, match="not a readable Parquet file"):
        list(corpus.read("00000", [0]))


def test_ranges_of_a_large_row_group_are_read_once(build: Any, tmp_path: Path, monkeypatch: Any) -> None:
    columns = {"image": [build.picture((i % 256, 0, 0)) for i in range(700)], "caption": [str(i) for i in range(700)]}
    write(tmp_path, columns)
    corpus = build.corpus(tmp_path / "s", tmp_path / "i")
    begun = []
    original = parquet._group_batches
    monkeypatch.setattr(parquet, "_group_batches", lambda *args: begun.append(args[2]) or original(*args))
    ranges = [range(start, min(start + 100, 700)) for start in range(0, 700, 100)]
    for rows in ranges:
        samples = list(corpus.read("00000", rows))
        assert [(s.row, s.alt_text) for s in samples] == [(row, str(row)) for row in rows]
        assert [s.image for s in samples] == [columns["image"][row] for row in rows]
    assert begun == [0]
    backwards = [next(iter(corpus.read("00000", rows))).row for rows in reversed(ranges)]  # readers that stop early
    assert backwards == [600, 500, 400, 300, 200, 100, 0]
    one, other = corpus.read("00000", range(600)), corpus.read("00000", range(300, 600))
    mixed = [(next(one).row, next(other).row) for _ in range(300)]
    assert mixed == [(i, i + 300) for i in range(300)]


def test_the_layout_of_the_datasets_library(build: Any, tmp_path: Path) -> None:
    picture = build.picture()
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": picture, "path": "a.png"}, {"bytes": None, "path": "b.png"}, None], kind)
    write(tmp_path, {"image": images, "text": ["one", "two", None]})
    corpus = build.corpus(tmp_path / "s", tmp_path / "i", ColumnsConfig(alt_text="text"))
    one, two, three = corpus.read("00000")
    assert (one.image, one.alt_text, one.key, one.extra) == (picture, "one", "000000000", {})
    assert [s.problem and s.problem.reason for s in (one, two, three)] == [None, Reason.NO_IMAGE, Reason.NO_IMAGE]
    assert (two.alt_text, three.alt_text) == ("two", "")


def test_img2dataset_names_the_column_by_format(build: Any, tmp_path: Path) -> None:
    write(tmp_path, {"jpg": [build.picture(format="JPEG")], "caption": ["a cat"], "key": ["000000000"]})
    (sample,) = build.corpus(tmp_path / "s", tmp_path / "i").read("00000")
    assert (sample.alt_text, sample.image is None, sample.extra) == ("a cat", False, {})


def test_captions_that_are_not_utf8(build: Any, tmp_path: Path) -> None:
    raw = pa.array([b"caf\xe9", "café".encode(), None, b""], pa.binary())
    as_text = pa.StringArray.from_buffers(4, raw.buffers()[1], raw.buffers()[2], raw.buffers()[0])
    for captions in (raw, as_text):
        write(tmp_path, {"image": [build.picture()] * 4, "caption": captions, "note": as_text})
        samples = list(build.corpus(tmp_path / "s", tmp_path / str(captions.type)).read("00000"))
        assert [s.alt_text for s in samples] == ["", "café", "", ""]
        assert [s.problem for s in samples] == [None] * 4
        assert samples[0].extra["note"] == ""


def test_duplicate_and_missing_keys(build: Any, tmp_path: Path) -> None:
    write(tmp_path, {"image": [build.picture()] * 4, "caption": ["a"] * 4, "key": ["x", None, "x", "y"]})
    samples = list(build.corpus(tmp_path / "s", tmp_path / "i").read("00000"))
    assert [s.key for s in samples] == ["x", "000000001", "x", "y"]
    assert [s.problem and s.problem.reason for s in samples] == [None, None, Reason.DUPLICATE_KEY, None]


def test_numbers_as_keys_and_captions(build: Any, tmp_path: Path) -> None:
    write(tmp_path, {"image": [build.picture()] * 2, "caption": [3, None], "key": [17, 18]})
    a, b = build.corpus(tmp_path / "s", tmp_path / "i").read("00000")
    assert (a.key, a.alt_text, b.alt_text) == ("17", "3", "")


@pytest.mark.parametrize(
    ("columns", "config", "sentence"),
    [
        (
            {"picture": [b"x"], "caption": ["a"]},
            ColumnsConfig(),
            "columns are picture, caption.*corpus.columns.image=NAME",
        ),
        ({"image": ["a.png"], "caption": ["a"]}, ColumnsConfig(), "'image' is string.*Encoded images"),
        ({"image": [b"x"]}, ColumnsConfig(alt_text="txet"), "no column 'txet'.*corpus.columns.alt_text"),
        ({"image": [b"x"]}, ColumnsConfig(key="uid"), "no column 'uid'.*corpus.columns.key"),
    ],
)
def test_columns_that_are_not_there(
    build: Any, tmp_path: Path, columns: dict[str, Any], config: ColumnsConfig, sentence: str
) -> None:
    write(tmp_path, columns)
    with pytest.raises(CorpusError, match=sentence):
        build.corpus(tmp_path / "s", tmp_path / "i", config).index("00000")


def test_empty_files(build: Any, tmp_path: Path) -> None:
    path = write(tmp_path, pa.table({"image": pa.array([], pa.binary()), "caption": pa.array([], pa.string())}))
    assert list(build.corpus(tmp_path / "s", tmp_path / "i").read("00000")) == []
    path.write_bytes(b"")
    assert build.corpus(tmp_path / "s", tmp_path / "i").num_rows("00000") == 0


def test_broken_and_changed_files(build: Any, tmp_path: Path) -> None:
    path = write(tmp_path, {"image": [build.picture()] * 9, "caption": ["a"] * 9})
    corpus: Corpus = build.corpus(tmp_path / "s", tmp_path / "i")
    corpus.index("00000")
    write(tmp_path, {"image": [build.picture()] * 8, "caption": ["a"] * 8})
    with pytest.raises(CorpusError, match="has changed since it was indexed"):
        list(corpus.read("00000"))
    for content in (path.read_bytes()[:-20], b"<html>" * 100, b"x"):
        path.write_bytes(content)
        with pytest.raises(CorpusError, match=r"00000\.parquet: not a readable Parquet file\. Download it again"):
            build.corpus(tmp_path / "s", tmp_path / "j").index("00000")
