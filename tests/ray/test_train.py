"""Training under Ray Train: any number of workers, workers that die, losses that are no numbers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.unit.train import small
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.samples import Sample
from vila2_ray.errors import BudgetSpent, StageFailed
from vila2_ray.progress import NullProgress
from vila2_ray.recipes.tiny import BASE_FOLDER
from vila2_ray.train.trainer import run_training, train_in_process

pytestmark = pytest.mark.usefixtures("ray_cluster")


class Heard(NullProgress):
    """Remembers the updates."""

    def __init__(self) -> None:
        self.updates: list[tuple[int, dict[str, float | str]]] = []

    def update(self, done: int, **figures: float | str) -> None:
        self.updates.append((done, figures))


def test_two_workers_train_as_one_process_does(tmp_path: Path) -> None:
    alone = train_in_process(small.job(tmp_path / "1", "pretrain"), NullProgress())
    job, heard = small.job(tmp_path / "2", "pretrain", "train.num_workers=2"), Heard()
    together = run_training(job, heard)
    assert together.losses == [(step, pytest.approx(loss, abs=1e-4)) for step, loss in alone.losses]
    assert together.num_tokens == alone.num_tokens
    weights = [load_file(tmp_path / name / "out/pretrain/model.safetensors") for name in ("1", "2")]
    for name, tensor in weights[0].items():  # of bf16 checkpoints: a last bit may differ
        torch.testing.assert_close(weights[1][name].float(), tensor.float(), rtol=2e-2, atol=1e-3)
    assert heard.updates[-1][0] == together.num_steps
    last = heard.updates[-1][1]
    assert {"loss", "lr", "data_wait_share", "tokens_per_second", "samples_per_second"} <= set(last)
    assert 0 <= float(last["data_wait_share"]) <= 1
    assert float(last["tokens_per_second"]) > float(last["samples_per_second"]) > 0
    assert job.state.list() == ["finished.json"]
    assert run_training(job, NullProgress()) == together  # done: nothing is started


class KillsItsReader(Corpus):
    """The first process that reads images a third time waits for a step to be saved and dies.

    The first step's images lie in two shards at most, so that step can be finished by then.
    """

    state: Path
    num_reads: int = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "state": self.state}

    def read(self, *args: Any, images: bool = True, **options: Any) -> Iterator[Sample]:
        self.num_reads += images
        if self.num_reads == 3 and not (self.state / "died").exists():
            while not (self.state / "last.json").exists():
                time.sleep(0.05)
            (self.state / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(*args, images=images, **options)


def test_a_killed_worker_goes_on_from_the_saved_step(tmp_path: Path) -> None:
    expected = train_in_process(small.job(tmp_path / "1", "align"), NullProgress())
    job = small.job(tmp_path / "2", "align", "train.checkpoint_every_seconds=0.001")
    plain = job.corpus
    job.corpus = KillsItsReader(plain.shards, plain.index_store, plain.columns, plain.max_pixels)
    job.corpus.state = Path(job.state.uri)
    summary = run_training(job, NullProgress())
    assert Path(job.state.uri, "died").exists()
    assert summary.losses == [(step, pytest.approx(loss, abs=1e-5)) for step, loss in expected.losses]


def test_a_loss_that_is_no_number_stops_the_stage_at_once(tmp_path: Path) -> None:
    init = tmp_path / "init"
    shutil.copytree(BASE_FOLDER, init)
    weights = load_file(init / "model.safetensors")
    weights["model.multi_modal_projector.linear_1.bias"][:] = float("nan")
    save_file(weights, init / "model.safetensors", metadata={"format": "pt"})
    job = small.job(tmp_path, "align", init=init)
    with pytest.raises(StageFailed, match=r"step 1: the loss is nan.*pretrain/0000"):
        run_training(job, NullProgress())
    assert not job.out.exists("config.json")


class Stops(Heard):
    """Says from the second step on that the budget is spent."""

    def update(self, done: int, **figures: float | str) -> None:
        super().update(done, **figures)
        if "loss" in figures and done >= 2:
            raise BudgetSpent(5.0, 5.0, "align")


def test_a_spent_budget_saves_the_step_and_more_of_it_goes_on(tmp_path: Path) -> None:
    long = ("align", "train.align.num_epochs=40", "train.num_workers=2", "train.cpus_per_worker=0.5")
    expected = train_in_process(small.job(tmp_path / "1", *long), NullProgress())
    job = small.job(tmp_path / "2", *long, "train.checkpoint_every_seconds=1e9")
    with pytest.raises(BudgetSpent):
        run_training(job, Stops())
    step = json.loads(job.state.read_text("last.json"))["kept"][-1]["step"]
    assert 2 <= step < expected.num_steps
    heard = Heard()
    summary = run_training(job, heard)
    assert min(done for done, figures in heard.updates if "loss" in figures) > step
    assert summary.losses == [(step, pytest.approx(loss, abs=1e-4)) for step, loss in expected.losses]
