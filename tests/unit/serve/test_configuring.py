"""An endpoint's setup: the campaign's configuration, what the command line changes of it, what a worker gets."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from tests.unit.serve.campaigns import FakeCampaign
from vila2_ray.errors import ConfigError
from vila2_ray.serve.configuring import setup
from vila2_ray.serve.states import Version


@pytest.fixture
def campaign(tmp_path: Path) -> FakeCampaign:
    return FakeCampaign(tmp_path / "campaign")


def test_a_campaign_s_configuration_with_changes_on_top(campaign: FakeCampaign) -> None:
    made = pickle.loads(pickle.dumps(campaign.setup("serve.models=[promoted,ocr]", "serve.max_waiting=3")))
    assert made.settings.models == ("promoted", "ocr")
    assert made.config.recaption.engine.name == "fake"
    target = campaign.promote("0")
    [wish, missing] = made.look()
    assert (wish.target, missing.target) == (target, None)
    spec = made.worker(Version("promoted", target))
    assert (spec.folder, spec.max_waiting) == (campaign.store.sub("checkpoints", "vlm-0", "sft").uri, 3)
    assert "detailed" in made.prompts().texts


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("rounds.max=2", "serving reads"),
        ("serve.modells=[x]", "serve.modells"),
        ("serve.models=[Pro/moted]", "serve.models"),
        ("serve.models=[a--b]", "serve.models"),
        ("serve.max_replicas=0", "serve.max_replicas"),
    ],
)
def test_what_serving_cannot_use_is_refused_by_name(campaign: FakeCampaign, override: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        campaign.setup(override)


def test_a_folder_that_is_no_campaign_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no campaign here"):
        setup(str(tmp_path))


@pytest.mark.parametrize(
    ("overrides", "shares"),
    [
        ((), True),
        (("serve.process=own",), False),
        (("serve.models=[promoted,ocr]",), False),
        (("serve.max_replicas=2",), False),
        (("recaption.engine.gpus_per_actor=1",), False),
        (("recaption.engine.gpus_per_actor=1", "serve.process=shared"), True),
    ],
)
def test_one_process_where_that_is_enough(campaign: FakeCampaign, overrides: tuple[str, ...], shares: bool) -> None:
    assert campaign.setup(*overrides).shares_process is shares


def test_one_process_holds_one_model(campaign: FakeCampaign) -> None:
    with pytest.raises(ConfigError, match=r"serve\.process"):
        _ = campaign.setup("serve.process=shared", "serve.models=[promoted,ocr]").shares_process
