"""`vila2 evaluate` on a fake engine: results beside a checkpoint's campaign, or where one says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.campaign.folders import begin
from tests.unit.evaluate.published.folders import picture, write_lines
from vila2_ray import cli
from vila2_ray.campaign.api import Campaign

FAKE = "recaption.engine.name=fake"


@pytest.fixture
def mine(tmp_path: Path) -> list[str]:
    picture(tmp_path / "mine/images", "0.png")
    write_lines(tmp_path / "mine", "questions.jsonl", [{"image": "0.png", "question": "What?", "answers": ["a cat"]}])
    return ["evaluate.benchmarks.mine.kind=own", f"evaluate.benchmarks.mine.path={tmp_path / 'mine'}"]


def test_any_folder_is_scored(tmp_path: Path, mine: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "weights").mkdir()
    asked = ["evaluate", str(tmp_path / "weights"), FAKE, *mine]
    assert cli.main(asked) == 2
    assert "--to = ''" in capsys.readouterr().err
    assert cli.main([*asked, "--to", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "accuracy" in shown
    assert f"results   {tmp_path / 'out'}" in shown
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"mine.json", "mine.parquet"}


def test_a_campaigns_checkpoint_is_scored_as_its_campaign_says(tmp_path: Path, mine: list[str]) -> None:
    config = begin(tmp_path / "campaign", FAKE, *mine)
    for stage in ("pretrain", "sft"):
        folder = tmp_path / "campaign/checkpoints/vlm-0" / stage
        folder.mkdir(parents=True)
        assert cli.main(["evaluate", str(folder)]) == 0
    again = ["evaluate.benchmarks.again.kind=own", f"evaluate.benchmarks.again.path={tmp_path / 'mine'}"]
    assert cli.main(["evaluate", str(folder), *again, "--only", "again"]) == 0
    found = Campaign(config.campaign).benchmarks()
    assert {model: set(results) for model, results in found.items()} == {
        "vlm-0": {"mine", "again"},
        "vlm-0-pretrain": {"mine"},
    }
