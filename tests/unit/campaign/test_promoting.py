"""`promote=ask`: the campaign ends before it promotes, a person says what, and it goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.campaign.test_runner import indexed_campaign
from tests.unit.campaign.test_specialists import Rehearsal, config
from vila2_ray import cli
from vila2_ray.campaign.api import Campaign
from vila2_ray.campaign.lease import Lease
from vila2_ray.campaign.promoting import promote_by_hand
from vila2_ray.campaign.promotion import read_promoted
from vila2_ray.campaign.runner import run
from vila2_ray.errors import CampaignBusy, ConfigError, StageFailed

ASK = ("rounds.max=3", "rounds.min_gain=0", "promote=ask")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    indexed_campaign(tmp_path)
    return tmp_path


def test_a_person_promotes_and_the_campaign_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Rehearsal(monkeypatch)
    outcome = run(config(folder, *ASK))
    assert "vlm-2 would be promoted" in outcome.waits_for
    assert f"vila2 promote {folder / 'campaign'}" in outcome.waits_for
    assert (outcome.promoted, work.ran[-1]) == (None, "report")
    campaign = Campaign(str(folder / "campaign"))
    assert "report" not in campaign.markers()
    assert {row.name: row.state for row in campaign.status()}["promote"] == "missing"
    again = run(config(folder, *ASK))
    assert (again.waits_for, again.ran) == (outcome.waits_for, [])
    assert promote_by_hand(campaign) == ("vlm-2", True)
    assert promote_by_hand(campaign) == ("vlm-2", False)
    outcome = run(config(folder, *ASK))
    assert (outcome.waits_for, outcome.ran) == ("", ["report", "export"])
    assert outcome.promoted is not None
    assert (outcome.promoted["model"], outcome.promoted["scores"]) == ("vlm-2", {"object_f1": 0.5})
    assert run(config(folder, *ASK)).ran == []


def test_another_model_than_the_best_may_be_promoted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Rehearsal(monkeypatch)
    run(config(folder, *ASK))
    campaign = Campaign(str(folder / "campaign"))
    with pytest.raises(ConfigError, match=r"model = 'vlm-9': no checkpoint of this campaign; it has vlm-0@"):
        promote_by_hand(campaign, "vlm-9")
    assert promote_by_hand(campaign, "vlm-1") == ("vlm-1", True)
    current = read_promoted(campaign.store)["current"]
    assert (current["checkpoint"], current["scores"]) == ("checkpoints/vlm-1/sft", {"object_f1": 0.3})
    assert campaign.markers()["promote"].summary == {"model": "vlm-1", "by": "a person", "best": "vlm-2"}
    assert run(config(folder, *ASK)).ran == ["report", "export"]


def test_what_is_trained_anew_is_asked_about_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Rehearsal(monkeypatch)
    run(config(folder, *ASK))
    promote_by_hand(Campaign(str(folder / "campaign")))
    run(config(folder, *ASK))
    assert run(config(folder, *ASK), from_="sft-2").waits_for
    more = config(folder, *ASK, "specialists=[ocr]")
    promote_by_hand(Campaign(str(folder / "campaign")))
    assert "vlm-final would be promoted" in run(more).waits_for


def test_a_campaign_that_does_not_ask_promotes_the_best(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Rehearsal(monkeypatch)
    run(config(folder, *ASK))
    outcome = run(config(folder, *ASK, "promote=auto"))
    assert (outcome.waits_for, outcome.ran) == ("", ["promote", "report", "export"])


def test_nobody_promotes_while_a_driver_runs_or_before_anything_is_trained(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Rehearsal(monkeypatch)
    run(config(folder, *ASK), until="align")
    campaign = Campaign(str(folder / "campaign"))
    with pytest.raises(StageFailed, match="no model has been trained"):
        promote_by_hand(campaign)
    run(config(folder, *ASK))
    with Lease(campaign.store), pytest.raises(CampaignBusy):
        promote_by_hand(campaign)


def test_the_command(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Rehearsal(monkeypatch)
    run(config(folder, *ASK))
    assert cli.main(["promote", str(folder / "campaign"), "vlm-1"]) == 0
    assert "promoted  vlm-1" in capsys.readouterr().out
    assert cli.main(["promote", str(folder / "campaign"), "vlm-1"]) == 0
    assert "vlm-1 was promoted already" in capsys.readouterr().out
