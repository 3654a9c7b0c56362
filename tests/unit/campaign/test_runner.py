"""What a driver does before and around its stages; the stages themselves are run in tests/e2e."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests.unit.recaption.pictures import write_shards
from vila2_ray.campaign import lease as leases
from vila2_ray.campaign.layout import Layout
from vila2_ray.campaign.promotion import NAME as PROMOTED
from vila2_ray.campaign.runner import run
from vila2_ray.campaign.state import read_markers
from vila2_ray.cli import main
from vila2_ray.config import Config
from vila2_ray.corpus.index import build_index
from vila2_ray.errors import BudgetSpent
from vila2_ray.progress import NullProgress
from vila2_ray.recipe import load_config
from vila2_ray.storage import Store


def indexed_campaign(folder: Path) -> Config:
    """Whose index is there, so that the stage finds nothing to do, and starts no cluster for it."""
    write_shards(folder / "shards", [6, 4])
    corpora = [f"corpus.{source}={folder / 'shards'}" for source in ("pretrain", "sft", "heldout")]
    config = load_config("tiny", [f"campaign={folder / 'campaign'}", "specialists=[]", *corpora])
    for source in ("pretrain", "sft", "heldout"):
        corpus = Layout(Store(config.campaign)).corpus(source, config)
        build_index(corpus.shards, corpus.columns, corpus.index_store, NullProgress())
    return config


def abandon(store: Store, **changes: object) -> None:
    """A lease of epoch 7 whose process is gone."""
    record = leases._Record("x", 7, 3, socket.gethostname(), os.getpid(), "another start")
    store.put_if(leases.NAME, json.dumps({**asdict(record), **changes}).encode(), None)


def test_a_campaign_that_is_taken_over_is_fenced_first(tmp_path: Path) -> None:
    config = indexed_campaign(tmp_path)
    store = Store(config.campaign)
    abandon(store)
    outcome = run(config, until="index")
    assert (outcome.ran, outcome.promoted) == (["index"], None)
    assert set(read_markers(store)) == {"index"}
    assert read_markers(store)["index"].summary["pretrain"]["num_samples"] == 10
    for name in ("stages/index.json", "stages/sft-0.json", "stages/report.json", PROMOTED):
        entry = json.loads(store.read_text(name))
        assert max(entry.get("fence", 0), entry.get("epoch", 0)) == 8


def test_a_campaign_that_was_given_back_needs_no_fence(tmp_path: Path) -> None:
    config = indexed_campaign(tmp_path)
    store = Store(config.campaign)
    abandon(store, released=True)
    assert run(config, until="index").ran == ["index"]
    assert store.list("stages", suffix=".json") == ["stages/index.json"]
    assert not store.exists(PROMOTED)


def test_a_spent_budget_stops_before_the_next_stage_with_an_exit_code_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = indexed_campaign(tmp_path)
    spent = {"attempt": "1-a", "stage": "align", "started_at": 1.0, "seconds": 9.0, "dollars": 7.5, "finished": False}
    Store(config.campaign).write_text("ledger/1-a.jsonl", json.dumps(spent) + "\n")
    with pytest.raises(BudgetSpent, match=r"index: \$7.50 of budget=5 dollars"):
        run(replace(config, budget=5.0), until="index")
    settings = [f"corpus.{name}={getattr(config.corpus, name)}" for name in ("pretrain", "sft", "heldout")]
    command = ["run", "--until", "index", f"campaign={config.campaign}", "specialists=[]", *settings]
    assert main([*command, "budget=5"]) == 4
    assert "raise budget=… and run the same command" in capsys.readouterr().err
    assert run(replace(config, budget=50.0), until="index").ran == ["index"]
