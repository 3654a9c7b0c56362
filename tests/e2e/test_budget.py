"""A campaign whose budget ends in training and in recaptioning makes what an undisturbed one makes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import micro
from vila2_ray import Campaign
from vila2_ray.campaign.runner import run
from vila2_ray.errors import BudgetSpent

pytestmark = pytest.mark.slow

SETTINGS = ("train.pretrain.num_epochs=30", "train.checkpoint_every_seconds=1e9", "recaption.range_rows=4")
PRICE = ("prices.node_dollars_per_hour=36000", "budget_reserve_seconds=0")
"""Ten dollars a second."""
MOST_STOPS = 40


@pytest.fixture(scope="module", autouse=True)
def ray_cluster() -> Iterator[None]:
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def dollars(folder: Path) -> float:
    return sum(entry.dollars for entry in Campaign(str(folder)).ledger())


def with_little_money(folder: Path, until: str, done: str, more: float) -> list[float]:
    """Carry it on with `more` dollars at a time until it is done; what `done` matched of work at each stop."""
    seen: list[float] = []
    while True:
        budget = dollars(folder) + more
        try:
            run(micro.config(folder, *SETTINGS, *PRICE, f"budget={budget}"), until=until)
            return seen
        except BudgetSpent as error:
            stopped = error
        assert stopped.stage == until
        assert stopped.spent_dollars >= budget
        assert len(seen) < MOST_STOPS
        seen.append(kept(folder, done))


def kept(folder: Path, pattern: str) -> float:
    """Steps of saved states, or rows of parts."""
    found = 0.0
    for path in folder.glob(pattern):
        if path.name == "last.json":
            found += json.loads(path.read_text())["kept"][-1]["step"]
        else:
            start, stop = path.stem.split("-")
            found += int(stop) - int(start)
    return found


def test_a_campaign_that_is_stopped_by_its_budget_makes_what_an_undisturbed_one_makes(tmp_path: Path) -> None:
    plain, poor = tmp_path / "plain", tmp_path / "poor"
    run(micro.config(plain, *SETTINGS), until="recaption-1")
    run(micro.config(poor, *SETTINGS, *PRICE), until="align")
    steps = with_little_money(poor, "pretrain-0", "training/vlm-0/pretrain/*/last.json", 20.0)
    whole, expected = (Campaign(str(folder)).markers()["pretrain-0"].summary for folder in (poor, plain))
    assert any(0 < step < whole["num_steps"] for step in steps), steps
    assert steps == sorted(steps), "no step that was saved is lost"
    assert [step for step, _ in whole["losses"]] == [step for step, _ in expected["losses"]]
    for (_, loss), (_, undisturbed) in zip(whole["losses"], expected["losses"], strict=True):
        assert loss == pytest.approx(undisturbed, abs=1e-4)
    run(micro.config(poor, *SETTINGS, *PRICE), until="evaluate-0")
    rows = with_little_money(poor, "recaption-1", "parts/round-1/*/*/*/*.parquet", 20.0)
    assert rows, "the budget ended in it"
    assert not list(poor.glob("parts/round-1/*/stop-*"))
    columns = ["source", "shard", "row", "variant", "sample_id", "status", "text", "image_sha256"]
    found, wanted = (Campaign(str(folder)).layer("round-1").to_pandas()[columns] for folder in (poor, plain))
    assert len(found) == micro.NUM_PRETRAIN
    assert found.equals(wanted)
    spent = Campaign(str(poor)).spent()
    assert spent["recaption-1"].dollars == pytest.approx(10 * spent["recaption-1"].seconds)
