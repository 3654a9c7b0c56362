"""A campaign whose budget ends in training and in recaptioning makes what an undisturbed one makes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import micro
from vila2_ray import Campaign
from vila2_ray.campaign.ledger import Entry
from vila2_ray.campaign.runner import run
from vila2_ray.errors import BudgetSpent
from vila2_ray.progress import NullProgress

pytestmark = pytest.mark.slow

SETTINGS = ("train.pretrain.num_epochs=30", "train.checkpoint_every_seconds=1e9", "recaption.range_rows=4")
PRICE = ("prices.node_dollars_per_hour=36000", "budget_reserve_seconds=0")
"""Ten dollars a second."""
MUCH = 1e6


@pytest.fixture(scope="module", autouse=True)
def ray_cluster() -> Iterator[None]:
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def plain(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nothing ever stopped it."""
    folder = tmp_path_factory.mktemp("campaigns") / "plain"
    run(micro.config(folder, *SETTINGS), until="recaption-1")
    return folder


def without(plain: Path, folder: Path, stage: str, *rooms: str) -> Path:
    """A copy in which a stage is still to be done."""
    shutil.copytree(plain, folder)
    (folder / "stages" / f"{stage}.json").unlink()
    for room in rooms:
        shutil.rmtree(folder / room, ignore_errors=True)
    return folder


def stopped(folder: Path, stage: str, dollars: float) -> None:
    """Run the stage until so much more is spent."""
    budget = sum(entry.dollars for entry in Campaign(str(folder)).ledger()) + dollars
    with pytest.raises(BudgetSpent) as error:
        run(micro.config(folder, *SETTINGS, *PRICE, f"budget={budget}"), until=stage)
    assert error.value.stage == stage
    assert error.value.spent_dollars >= budget


class Heard(NullProgress):
    """Remembers how far training was."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def update(self, done: int, **figures: float | str) -> None:
        if "loss" in figures:
            self.steps.append(done)


def test_training_that_is_stopped_goes_on_at_its_step_to_the_same_losses(plain: Path, tmp_path: Path) -> None:
    rooms = ("training/vlm-0/pretrain", "checkpoints/vlm-0/pretrain")
    poor = without(plain, tmp_path / "poor", "pretrain-0", *rooms)
    stopped(poor, "pretrain-0", 20.0)
    [state] = poor.glob("training/vlm-0/pretrain/*/last.json")
    step = json.loads(state.read_text())["kept"][-1]["step"]
    expected = Campaign(str(plain)).markers()["pretrain-0"].summary
    assert 0 < step < expected["num_steps"]
    heard = Heard()
    run(micro.config(poor, *SETTINGS, *PRICE, f"budget={MUCH}"), until="pretrain-0", progress=heard)
    assert heard.steps[0] > step, "no step is done twice"
    found = Campaign(str(poor)).markers()["pretrain-0"].summary
    assert found["losses"] == [[step, pytest.approx(loss, abs=1e-4)] for step, loss in expected["losses"]]
    spent = Campaign(str(poor)).spent()["pretrain-0"]
    assert spent.dollars == pytest.approx(sum(10 * e.seconds for e in last_two(poor, "pretrain-0")), abs=1.0)


def test_recaptioning_that_is_stopped_goes_on_to_the_same_captions(plain: Path, tmp_path: Path) -> None:
    poor = without(plain, tmp_path / "poor", "recaption-1", "captions", "parts")
    for number in range(8):  # until the first range is there before the money is spent
        stopped(poor, "recaption-1", 20.0 * 2**number)
        files = [*poor.glob("parts/round-1/*/*/*/*.parquet"), *poor.glob("captions/round-1/*/*/*.parquet")]
        if files:
            break
    written = {path: path.stat().st_mtime_ns for path in poor.glob("parts/round-1/*/*/*/*.parquet")}
    assert files, "the budget ended within the stage"
    assert not list(poor.glob("parts/round-1/*/stop-*"))
    run(micro.config(poor, *SETTINGS, *PRICE, f"budget={MUCH}"), until="recaption-1")
    assert not [path for path in written if path.exists() and path.stat().st_mtime_ns != written[path]]
    columns = ["source", "shard", "row", "variant", "sample_id", "status", "text", "image_sha256"]
    found, expected = (Campaign(str(folder)).layer("round-1").to_pandas()[columns] for folder in (poor, plain))
    assert len(found) == micro.NUM_PRETRAIN
    assert found.equals(expected)


def last_two(folder: Path, stage: str) -> list[Entry]:
    """The stage's entries under the high price."""
    return [entry for entry in Campaign(str(folder)).ledger() if entry.stage == stage][-2:]
