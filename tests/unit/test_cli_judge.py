"""`vila2 judge draw`, `list`, `report` and `export` as they are typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.judge.voting import votes
from tests.unit.report.test_collect import make_campaign
from vila2_ray import cli
from vila2_ray.campaign.api import Campaign
from vila2_ray.campaign.studies import open_study
from vila2_ray.judge.export import read_judgements


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "80")
    return make_campaign(tmp_path).uri


def test_draw_vote_report_export(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["judge", "list", folder]) == 0
    assert "no studies yet; draw one with vila2 judge draw" in capsys.readouterr().out
    asked = ["judge", "draw", folder, "--samples", "4", "--criteria", "detail,overall"]
    assert cli.main([*asked, "--layers", "round-1", "round-2"]) == 0
    assert f"4 pairs of round-1, round-2\nstudy     {folder}/judgements/votes" in capsys.readouterr().out
    assert cli.main(["judge", "report", folder]) == 0
    assert "4 pairs; nobody has judged one yet" in capsys.readouterr().out
    study = open_study(Campaign(folder), "votes")
    given = [*votes(study.pairs(), "ann", "2221"), *votes(study.pairs(), "bob", "22=1")]
    given += [*votes(study.pairs(), "model:b", "22"), *votes(study.pairs(), "model:b", "21", swapped=True)]
    for vote in given:
        study.cast(vote)
    assert cli.main(["judge", "list", folder]) == 0
    assert "ann 4, bob 4, model:b 4" in capsys.readouterr().out
    assert cli.main(["judge", "report", folder]) == 0
    shown = capsys.readouterr().out
    row = next(line for line in shown.splitlines() if "people" in line and "detail" in line)
    assert "how often round-2 is better than round-1" in shown
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert [*cells[:4], cells[5]] == ["people", "detail", "4", "68.8\u202f%", "71.4\u202f%"]
    assert "people with each other" in shown
    assert "model:b: detail" in shown
    assert cli.main(["judge", "export", folder, "--to", str(tmp_path / "votes.csv")]) == 0
    assert "12 rows" in capsys.readouterr().out
    assert read_judgements(str(tmp_path / "votes.csv")).num_rows == 12


def test_figures_for_programs(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["judge", "draw", folder, "--pairs", "round-1:round-2", "--samples", "3"]) == 0
    study = open_study(Campaign(folder), "votes")
    for vote in votes(study.pairs(), "ann", "==="):
        study.cast(vote)
    capsys.readouterr()
    assert cli.main(["judge", "report", folder, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (rate,) = told["rates"]
    assert rate["rate"] == {"value": 0.5, "low": pytest.approx(0.125, abs=1e-3), "high": pytest.approx(0.875, abs=1e-3)}
    assert rate["rate_without_ties"] == {"value": None, "low": None, "high": None}
    assert told["num_equal"] == {"round-1:round-2": 0}
    assert told["criteria"] == ["hallucination", "detail", "fluency", "overall"]


def test_mistakes_are_told(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    both = ["--layers", "round-1,round-2", "--pairs", "round-1:round-2"]
    assert cli.main(["judge", "draw", folder, *both]) == 2
    assert "name either layers or pairs of them" in capsys.readouterr().err
    assert cli.main(["judge", "report", folder, "--study", "mine"]) == 2
    assert "there is none yet; draw one with vila2 judge draw" in capsys.readouterr().err
    assert cli.main(["judge", "draw", folder]) == 0
    assert "alt_text, round-1, round-2" in capsys.readouterr().out
    assert cli.main(["judge", "draw", folder, "--seed", "1"]) == 2
    assert "was drawn with seed = 0" in capsys.readouterr().err
    assert cli.main(["judge", "export", folder, "--to", "votes.xlsx"]) == 2
    assert ".csv or .parquet" in capsys.readouterr().err
