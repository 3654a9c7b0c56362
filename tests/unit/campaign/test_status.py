"""What `vila2 status` says of stages that are not done."""

from __future__ import annotations

import time
from pathlib import Path

from vila2_ray.campaign.api import SILENT_SECONDS, Campaign
from vila2_ray.campaign.live import Live, write_live
from vila2_ray.recipe import load_config, to_yaml
from vila2_ray.storage import Store


def state_of(campaign: Campaign, stage: str) -> str:
    [state] = [row.state for row in campaign.status() if row.name == stage]
    return state


def test_running_is_what_a_driver_tells_now(tmp_path: Path) -> None:
    Store(tmp_path).write_text("campaign.yaml", to_yaml(load_config("tiny", [f"campaign={tmp_path}"])))
    campaign, stage = Campaign(str(tmp_path)), "sft-0"
    assert state_of(campaign, stage) == "missing"
    live = Live("here", 1, started_at=time.time(), written_at=time.time(), stage=stage)
    write_live(campaign.store, live)
    assert state_of(campaign, stage) == "running"
    live.ended = "interrupted"
    write_live(campaign.store, live)
    assert state_of(campaign, stage) == "missing"
    campaign.store.write_text("training/vlm-0/sft/0123abcd/step-8", "")
    assert state_of(campaign, stage) == "begun"
    live.ended, live.written_at = "", time.time() - SILENT_SECONDS - 1
    write_live(campaign.store, live)
    assert state_of(campaign, stage) == "begun", "its driver is silent"
