"""Votes as files: nothing is lost on the way there and back, and a spreadsheet runs nothing."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vila2_ray.errors import ConfigError, CorpusError, StorageError
from vila2_ray.judge.export import judgements, read_judgements, write_judgements
from vila2_ray.judge.study import Pair, Shown, Study, Vote
from vila2_ray.schema import JUDGEMENT
from vila2_ray.storage import Store

PAIR = Pair("f00", "pretrain", "00000", 3, "=cmd/3", Shown("alt_text", 0, "cat"), Shown("round-1", 1, "a cat"))
OTHER = Pair("f01", "pretrain", "00000", 4, "00000/4", Shown("alt_text", 0, "dog"), Shown("round-1", 0, "a dog"))
TEXTS = [
    "",
    'plain, with "quotes", a comma\nand a line',
    "=1+1",
    "+49 30",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r\n=1",
    "  =1",
    "＝1",
    "'=1",
    "''=1",
    "'quoted'",
    "'",
    "NULL",
    "nan",
    "größer 猫 \U0001f408",
    " ends with spaces ",
]


def study(folder: Path) -> Study:
    made = Study.draw(Store(folder / "s"), [PAIR, OTHER], {"seed": 0}, ["detail"])
    for number, text in enumerate(TEXTS):
        answers = {"detail": "second", "overall": "tie"}
        edits = {"first": text}
        made.cast(Vote("f00", f"r{number:02}", "person", True, answers, 1e9 + number, edits, text, seconds=1.5))
    made.cast(Vote("f01", "model:m", "model", False, {}, 1.0, problem="the answer is no JSON"))
    return made


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_every_text_comes_back_as_it_was(tmp_path: Path, ending: str) -> None:
    made = study(tmp_path)
    assert write_judgements([made], str(tmp_path / f"votes.{ending}")) == 3 * len(TEXTS)
    found = read_judgements(str(tmp_path / f"votes.{ending}"))
    assert found.schema == JUDGEMENT
    assert found.equals(judgements(made.pairs(), made.votes()))
    rows = found.to_pylist()
    assert [row["edit"] for row in rows if row["criterion"] == "edit"] == TEXTS
    assert {row["edit"] for row in rows if row["criterion"] != "edit"} == {None}
    assert rows[0]["voted_at"] == "2001-09-09T01:46:40.000000+00:00"
    assert (rows[0]["second_layer"], rows[0]["second_variant"], rows[0]["swapped"]) == ("round-1", 1, True)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4))
def test_any_text_comes_back(texts: list[str]) -> None:
    said = [Vote("f00", "ann", "person", False, {}, 1.0, {"second": text}, text) for text in texts]
    table = judgements([PAIR], said)
    with tempfile.TemporaryDirectory() as folder:
        made = Study(Store(folder))
        with patch.object(made, "pairs", lambda: [PAIR]), patch.object(made, "votes", lambda: said):
            write_judgements([made], f"{folder}/votes.csv")
        assert read_judgements(f"{folder}/votes.csv").equals(table)


def test_no_cell_of_a_csv_is_a_formula(tmp_path: Path) -> None:
    write_judgements([study(tmp_path)], str(tmp_path / "votes.csv"))
    with open(tmp_path / "votes.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    cells = [cell for row in rows for cell in row]
    assert not [cell for cell in cells if cell.lstrip()[:1] in tuple("=+-@＝")]
    assert "'=cmd/3" in cells
    assert "'quoted'" in cells, "what is harmless stays as it is"


def test_columns_in_another_order_and_what_a_spreadsheet_makes_of_truth(tmp_path: Path) -> None:
    write_judgements([study(tmp_path)], str(tmp_path / "votes.csv"))
    with open(tmp_path / "votes.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = [*reversed(JUDGEMENT.names), "my notes"]
    with open(tmp_path / "again.csv", "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows({**row, "swapped": row["swapped"].upper(), "my notes": "x"} for row in rows)
    assert read_judgements(str(tmp_path / "again.csv")).equals(read_judgements(str(tmp_path / "votes.csv")))


def test_half_a_character_stops_no_export() -> None:
    vote = Vote("f00", "model:m", "model", False, {"detail": "tie"}, 1.0, reason="cut \ud83d")
    assert judgements([PAIR], [vote])["reason"].to_pylist() == ["cut ?"]


def test_a_study_without_votes(tmp_path: Path) -> None:
    made = Study.draw(Store(tmp_path / "s"), [PAIR], {}, [])
    for ending in ("csv", "parquet"):
        assert write_judgements([made], str(tmp_path / f"v.{ending}")) == 0
        assert read_judgements(str(tmp_path / f"v.{ending}")).equals(JUDGEMENT.empty_table())


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is no file of judgements"),
        (b"a,b\n1,2\n", "no column 'pair_id'"),
        (b"PAR1 and no more", "is no file of judgements"),
        (b"\xff\xfe\x00", "is no file of judgements|no column"),
    ],
)
def test_what_is_no_file_of_judgements_is_told(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(CorpusError, match=told):
        read_judgements(str(tmp_path / "x.csv"))


def test_impossible_answers_and_files_that_are_not_there(tmp_path: Path) -> None:
    table = judgements([PAIR], [Vote("f00", "ann", "person", False, {"detail": "tie"}, 1.0)])
    wrong = table.set_column(table.column_names.index("answer"), "answer", pa.array(["left"]))
    pq.write_table(wrong, tmp_path / "x.parquet")
    with pytest.raises(CorpusError, match="answer is one of first, second, tie, not 'left'"):
        read_judgements(str(tmp_path / "x.parquet"))
    with pytest.raises(StorageError, match="no such file"):
        read_judgements(str(tmp_path / "none.csv"))
    with pytest.raises(ConfigError, match=r"\.csv or \.parquet"):
        write_judgements([study(tmp_path)], str(tmp_path / "none.xlsx"))
