"""Training state on a real S3 server: saved beside training, read back, tidied."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.train import small
from vila2_ray.progress import NullProgress
from vila2_ray.storage import Store
from vila2_ray.train.checkpoint import StepStore
from vila2_ray.train.loop import StepReport, fit
from vila2_ray.train.trainer import train_in_process


class Killed(Exception):
    pass


def test_state_on_s3_is_resumed_and_tidied(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VILA2_CACHE", str(tmp_path))
    settings = small.stage()
    source, table = small.data()
    plan = small.plan(table, settings)

    def kill(report: StepReport) -> None:
        if report.step == 9:
            raise Killed

    def train(store: StepStore | None, on_step: object = None) -> list[float]:
        return fit(
            small.model(), plan, source, settings, pad_token_id=small.PAD, place=small.CPU, checkpoints=store,
            on_step=on_step,
        ).losses  # fmt: skip

    expected, state = train(None), Store(f"{bucket}/state")
    with pytest.raises(Killed):
        train(StepStore(state, "w", 1e9, every_steps=1, keep=2), kill)
    kept = json.loads(state.read_text("last.json"))["kept"]
    assert 1 <= len(kept) <= 2
    assert {name.split("/")[0] for name in state.list()} == {"last.json", *(save["folder"] for save in kept)}
    again = StepStore(state, "w", 1e9)
    assert train(again) == expected
    again.clear()
    assert state.list() == []


def test_a_stage_of_which_everything_lies_on_s3(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VILA2_CACHE", str(tmp_path / "cache"))
    alone = train_in_process(small.job(tmp_path / "local", "align", "train.align.num_epochs=1"), NullProgress())
    job = small.job(tmp_path / "far", "align", "train.align.num_epochs=1")
    job.packs, job.state, job.out = (Store(f"{bucket}/{name}") for name in ("packs", "training", "out"))
    job.metrics = Store(f"{bucket}/metrics")
    summary = train_in_process(job, NullProgress())
    assert (summary.losses, summary.digest) == (alone.losses, alone.digest)
    assert job.state.list() == ["finished.json"]
    assert job.out.exists("model.safetensors")
    assert [name for name in job.metrics.list() if "tfevents" in name]
