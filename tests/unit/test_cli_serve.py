"""What operators say to an endpoint by command: pins, rollbacks, keys; and what is refused before anything starts."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.unit.serve.campaigns import FakeCampaign
from vila2_ray.cli import main
from vila2_ray.serve.keys import Keys
from vila2_ray.serve.wishes import look


@pytest.fixture
def campaign(tmp_path: Path) -> FakeCampaign:
    return FakeCampaign(tmp_path / "campaign")


def pin(campaign: FakeCampaign, *words: str) -> int:
    return main(["serve-pin", str(campaign.folder), *words])


def served(campaign: FakeCampaign, name: str = "promoted") -> tuple[str, str]:
    [wish] = look(campaign.store, (name,))
    return wish.target.label if wish.target else "", wish.pinned


def test_pin_roll_back_and_follow_again(campaign: FakeCampaign, capsys: pytest.CaptureFixture[str]) -> None:
    targets = [campaign.promote(f"{k}") for k in range(3)]
    assert pin(campaign, "promoted") == 0
    assert served(campaign)[0] == targets[2].label, "without a model: what it serves now"
    for target in (targets[1], targets[0]):
        assert pin(campaign, "promoted", "--rollback", "--why", "it dreams") == 0
        assert served(campaign)[0] == target.label
    assert served(campaign)[1].startswith("rolled back by ")
    assert served(campaign)[1].endswith(": it dreams")
    assert pin(campaign, "promoted", "--rollback") == 2, "nothing was promoted before"
    assert pin(campaign, "promoted", "vlm-1") == 0
    campaign.promote("3")
    assert served(campaign)[0] == targets[1].label, "no promotion overrides it"
    assert pin(campaign, "promoted", "--unpin") == 0
    assert served(campaign) == (campaign.train("3", "vlm-3").label, "")
    assert "--unpin takes it back" in capsys.readouterr().out


def test_what_cannot_be_pinned_is_refused(campaign: FakeCampaign, capsys: pytest.CaptureFixture[str]) -> None:
    assert pin(campaign, "promoted") == 2
    campaign.promote("0")
    campaign.train("ocr", "ocr")
    for words in (("promoted", "vlm-9"), ("promoted", "vlm-0", "--unpin"), ("ocr", "--rollback"), ("vlm-4",)):
        assert pin(campaign, *words) == 2, words
    assert pin(campaign, "ocr") == 0
    assert served(campaign, "ocr")[0].startswith("ocr@")
    assert "vlm-0@" in capsys.readouterr().err


def test_keys_are_made_shown_once_and_taken_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys"
    secrets = {}
    for name in ("alice", "bob"):
        assert main(["serve-key", str(file), name]) == 0
        secrets[name] = capsys.readouterr().out.strip()
        assert secrets[name] not in file.read_text("utf-8")
    assert main(["serve-key", str(file), "alice"]) == 2, "she has one"
    assert main(["serve-key", str(file), "alice", "--revoke"]) == 0
    keys = Keys.read(file)
    assert (keys.check(secrets["alice"]), keys.check(secrets["bob"])) == (None, "bob")
    assert main(["serve-key", str(file), "alice", "--revoke"]) == 2


@pytest.mark.parametrize("override", ["serve.host=0.0.0.0", "serve.keys=nowhere", "rounds.max=1", "serve.port=PORT"])
def test_serving_is_refused_before_anything_starts(
    campaign: FakeCampaign, capsys: pytest.CaptureFixture[str], override: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        override = override.replace("PORT", str(taken.getsockname()[1]))
        assert main(["serve", str(campaign.folder), override]) == 2
    assert override.partition("=")[0] in capsys.readouterr().err
