"""Exported judgements are read back from either form."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.judge.judgements import edited, judgement, table, write_judgements
from vila2_ray.errors import CorpusError
from vila2_ray.judge.export import read_judgements

ROWS = (
    judgement(0, "alt_text", "round-1.1", "tie", reason='says "so",\nand more'),
    edited(3, "round-2", "A cat,\nand a dog.", rater="bob", swapped=True),
)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_what_was_written_is_read(tmp_path: Path, ending: str) -> None:
    assert read_judgements(write_judgements(tmp_path / f"votes.{ending}", *ROWS)).equals(table(*ROWS))


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "PAR1 and no more"])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "votes.csv").write_text(text)
    with pytest.raises(CorpusError, match=r"votes\.csv"):
        read_judgements(str(tmp_path / "votes.csv"))
