from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vila2_ray.corpus.layers import Layer, Parts, cover, missing_ranges
from vila2_ray.corpus.verdicts import Verdicts
from vila2_ray.errors import CorpusError
from vila2_ray.schema import CAPTION, VERDICT
from vila2_ray.storage import Store


@pytest.fixture
def layer(tmp_path: Path) -> Layer:
    return Layer(Store(tmp_path / "captions" / "round-1" / "abcd"))


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(Store(tmp_path / "parts" / "round-1" / "abcd"))


def files(tmp_path: Path) -> list[str]:
    return sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())


def test_a_layer_keeps_rows_and_metadata(build: Any, layer: Layer) -> None:
    table = build.captions("00000", range(5), variants=2)
    assert not layer.has("pretrain", "00000")
    layer.write("pretrain", "00000", table, {"layer": "round-1", "round": "1"})
    assert layer.has("pretrain", "00000")
    assert layer.read("pretrain", "00000").equals(table)
    assert layer.read("pretrain", "00000", ["row", "text"]).column_names == ["row", "text"]
    assert layer.metadata("pretrain", "00000").items() >= {"layer": "round-1", "round": "1"}.items()
    assert layer.path("pretrain", "00000") == "pretrain/00000.parquet"
    layer.write("pretrain", "a-00001", build.captions("a-00001", [0]), {})
    assert layer.shards() == [("pretrain", "00000"), ("pretrain", "a-00001")]
    assert layer.to_table().num_rows == 11
    assert layer.to_pandas(["sample_id"])["sample_id"].iloc[-1] == "a-00001/000"


def test_an_empty_layer(layer: Layer) -> None:
    assert layer.shards() == []
    assert layer.to_table().schema.equals(CAPTION)


def test_the_digest_is_of_the_rows(build: Any, layer: Layer, tmp_path: Path) -> None:
    layer.write("pretrain", "0", build.captions("0", range(3)), {"engine": "a"})
    first = layer.digest()
    other = Layer(Store(tmp_path / "other"))
    table = build.captions("0", range(3))
    other.write("pretrain", "0", pa.concat_tables([table[:1], table[1:]]), {"engine": "b"})
    assert other.digest() == first
    other.write("pretrain", "0", build.captions("0", range(3), text="else"), {})
    assert other.digest() != first


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.take([1, 0, 2]), "out of order"),
        (lambda t: t.take([0, 0, 1]), "out of order or twice"),
        (lambda t: t.drop_columns(["text"]), "expected columns"),
        (lambda t: t.set_column(0, "source", pa.array(["x"] * 3)), "another shard"),
        (lambda t: t.set_column(2, "row", pa.array(["a", "b", "c"])), "expected columns"),
    ],
)
def test_wrong_rows_are_refused(build: Any, layer: Layer, tmp_path: Path, change: Any, sentence: str) -> None:
    with pytest.raises(CorpusError, match=sentence):
        layer.write("pretrain", "00000", change(build.captions("00000", range(3))), {})
    assert files(tmp_path) == []


def test_parts_become_the_layer(build: Any, parts: Parts, layer: Layer, tmp_path: Path) -> None:
    def status(row: int, variant: int) -> str:
        return "failed" if row == 3 else "captioned"

    whole = build.captions("00000", range(7), 2, status=status)
    parts.write("pretrain", "00000", 4, 7, build.captions("00000", range(4, 7), 2))
    parts.write("pretrain", "00000", 0, 4, build.captions("00000", range(4), 2, status=status))
    parts.write("pretrain", "00001", 0, 1, build.captions("00001", [0], 2))
    assert parts.ranges() == {("pretrain", "00000"): [(0, 4), (4, 7)], ("pretrain", "00001"): [(0, 1)]}
    assert parts.ranges("pretrain") == parts.ranges()
    assert parts.ranges("sft") == {}
    assert parts.finish(layer, "pretrain", "00000", 7, 2, {"layer": "round-1"}) == {"captioned": 12, "failed": 2}
    assert layer.read("pretrain", "00000").equals(whole)
    assert layer.metadata("pretrain", "00000")["layer"] == "round-1"
    assert list(parts.ranges()) == [("pretrain", "00001")]


def test_finishing_twice_changes_nothing(build: Any, parts: Parts, layer: Layer) -> None:
    parts.write("pretrain", "0", 0, 2, build.captions("0", range(2)))
    parts.finish(layer, "pretrain", "0", 2, 1, {"attempt": "1"})
    parts.write("pretrain", "0", 0, 2, build.captions("0", range(2), text="late"))  # by a task thought dead
    assert parts.finish(layer, "pretrain", "0", 2, 1, {"attempt": "2"}) == {"captioned": 2}
    assert layer.metadata("pretrain", "0")["attempt"] == "1"
    assert "late" not in layer.read("pretrain", "0")["text"].to_pylist()
    assert parts.ranges() == {}


def test_a_faster_task_is_no_error(build: Any, parts: Parts, layer: Layer) -> None:
    """Of two tasks that finish a shard, the other one writes and deletes the parts while this one looks for them."""
    table = build.captions("0", range(2))

    class Late(Layer):
        asked = 0

        def has(self, source: str, shard: str) -> bool:
            self.asked += 1
            if self.asked == 2:
                layer.write(source, shard, table, {})
            return super().has(source, shard)

    assert parts.finish(Late(layer.store), "pretrain", "0", 2, 1, {}) == {"captioned": 2}


def test_an_empty_shard_gets_an_empty_file(parts: Parts, layer: Layer) -> None:
    assert parts.finish(layer, "pretrain", "0", 0, 1, {}) == {}
    assert layer.read("pretrain", "0").num_rows == 0


def test_overlapping_parts_give_every_row_once(build: Any, parts: Parts, layer: Layer) -> None:
    for start, stop in [(0, 4), (4, 8), (0, 3), (3, 6), (6, 10), (2, 5)]:
        parts.write("pretrain", "0", start, stop, build.captions("0", range(start, stop), 2))
    parts.finish(layer, "pretrain", "0", 10, 2, {})
    assert layer.read("pretrain", "0").equals(build.captions("0", range(10), 2))


@pytest.mark.parametrize("ranges", [[(0, 4)], [(4, 7)], [(0, 3), (4, 7)], []])
def test_a_hole_is_named(build: Any, parts: Parts, layer: Layer, tmp_path: Path, ranges: list[tuple[int, int]]) -> None:
    for start, stop in ranges:
        parts.write("pretrain", "0", start, stop, build.captions("0", range(start, stop)))
    before = files(tmp_path)
    with pytest.raises(CorpusError, match=r"no part holds row \d\. Run the same command again"):
        parts.finish(layer, "pretrain", "0", 7, 1, {})
    assert files(tmp_path) == before


def test_wrong_numbers_of_variants_are_refused(build: Any, parts: Parts, layer: Layer, tmp_path: Path) -> None:
    parts.write("pretrain", "0", 0, 4, build.captions("0", range(4), 1))
    before = files(tmp_path)
    with pytest.raises(CorpusError, match="4 rows × 2 variants"):
        parts.finish(layer, "pretrain", "0", 4, 2, {})
    assert files(tmp_path) == before


@pytest.mark.parametrize("rows", [[0, 1], [0, 1, 3], [1, 2, 3], [0, 1, 2, 3], [0, 2, 1], []])
def test_a_part_holds_exactly_its_rows(build: Any, parts: Parts, tmp_path: Path, rows: list[int]) -> None:
    with pytest.raises(CorpusError):
        parts.write("pretrain", "0", 0, 3, build.captions("0", rows))
    assert files(tmp_path) == []


def test_temporary_files_are_no_parts(build: Any, parts: Parts, tmp_path: Path) -> None:
    parts.write("pretrain", "0", 0, 2, build.captions("0", range(2)))
    folder = Path(parts.store.uri, "pretrain", "0")
    (folder / ".tmp-1234").write_bytes(b"half")
    (folder / "000000002-000000004.parquet.lock").write_bytes(b"")
    assert parts.ranges() == {("pretrain", "0"): [(0, 2)]}


def test_missing_ranges_on_the_grid() -> None:
    assert missing_ranges(600, [], 256) == [(0, 256), (256, 512), (512, 600)]
    assert missing_ranges(600, [(256, 512)], 256) == [(0, 256), (512, 600)]
    assert missing_ranges(600, [(0, 100), (50, 300)], 256) == [(300, 512), (512, 600)]
    assert missing_ranges(600, [(0, 700)], 256) == []
    assert missing_ranges(0, [], 256) == []


RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)).map(lambda p: (p[0], p[0] + p[1])), max_size=8)


@given(num_rows=st.integers(0, 60), done=RANGES, size=st.integers(1, 25))
def test_done_and_missing_cover_all(num_rows: int, done: list[tuple[int, int]], size: int) -> None:
    missing = missing_ranges(num_rows, done, size)
    held = {row for start, stop in done for row in range(start, min(stop, num_rows))}
    wanted = [row for start, stop in missing for row in range(start, stop)]
    assert sorted(held | set(wanted)) == list(range(num_rows))
    assert len(wanted) == len(set(wanted))
    assert not held & set(wanted)
    assert all(0 < stop - start <= size for start, stop in missing)
    taken = [row for _, _, begin, end in cover(num_rows, done + missing, "x") for row in range(begin, end)]
    assert taken == list(range(num_rows))
    if missing:
        with pytest.raises(CorpusError):
            cover(num_rows, done, "x")


def test_verdicts(build: Any, tmp_path: Path) -> None:
    verdicts = Verdicts(Store(tmp_path / "verdicts"))
    assert verdicts.flags("pretrain", "0") == {}
    rows = [
        {"source": "pretrain", "shard": "0", "row": row, "sample_id": f"0/{row}", "variant": 0, "flags": flags}
        for row, flags in ((0, []), (2, ["too_short", "repetition"]))
    ]
    verdicts.write("pretrain", "0", pa.Table.from_pylist(rows, VERDICT))
    assert verdicts.flags("pretrain", "0") == {(2, 0): ["too_short", "repetition"]}
    assert verdicts.opinions("pretrain", "0") == (verdicts.flags("pretrain", "0"), {})
    assert verdicts.read("pretrain", "0").to_pylist() == [{**row, "text": None} for row in rows]
    with pytest.raises(CorpusError, match="out of order"):
        verdicts.write("pretrain", "0", pa.Table.from_pylist(rows[::-1], VERDICT))


def test_edits_stand_beside_flags(tmp_path: Path) -> None:
    verdicts = Verdicts(Store(tmp_path))
    key = {"source": "pretrain", "shard": "0", "variant": 0, "flags": []}
    texts = ["A person's.", None, ""]
    rows = [{**key, "row": row, "sample_id": f"0/{row}", "text": text} for row, text in enumerate(texts)]
    rows[2]["flags"] = ["edited_out"]
    verdicts.write("pretrain", "0", pa.Table.from_pylist(rows, VERDICT))
    assert verdicts.opinions("pretrain", "0") == ({(2, 0): ["edited_out"]}, {(0, 0): "A person's.", (2, 0): ""})


def test_verdicts_from_before_there_were_edits_have_none(tmp_path: Path) -> None:
    verdicts = Verdicts(Store(tmp_path))
    row = {"source": "pretrain", "shard": "0", "row": 1, "sample_id": "0/1", "variant": 0, "flags": ["too_short"]}
    older = pa.schema([field for field in VERDICT if field.name != "text"])
    verdicts.store.write_table(verdicts.path("pretrain", "0"), pa.Table.from_pylist([row], older))
    assert verdicts.opinions("pretrain", "0") == ({(1, 0): ["too_short"]}, {})
    assert verdicts.to_table().equals(pa.Table.from_pylist([row], VERDICT))
    assert verdicts.to_table(["text", "row"]).to_pylist() == [{"text": None, "row": 1}]
    verdicts.write("pretrain", "0", verdicts.read("pretrain", "0"))
