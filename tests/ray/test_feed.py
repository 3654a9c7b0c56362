"""Data that Ray Data's workers make: the very steps that a rank's own thread would have read."""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.train import small
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.samples import Sample
from vila2_ray.errors import ConfigError, CorpusError
from vila2_ray.progress import NullProgress
from vila2_ray.train.features import FeatureCache
from vila2_ray.train.feed import RayReader, RemoteSource, open_reader
from vila2_ray.train.job import TrainingJob
from vila2_ray.train.reading import Reader, StepData
from vila2_ray.train.source import ImageKey
from vila2_ray.train.trainer import on_cluster, run_training, train_in_process
from vila2_ray.train.work import open_source, ready_plan

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    """Three epochs of 80 squares, one of which cannot be decoded, packed."""
    folder = tmp_path_factory.mktemp("feed")
    shards = small.write_shards(folder / "pretrain", num_shards=4, size=20, bad=7)
    settings = ("num_epochs=3", "max_samples_per_sequence=2", "micro_batch_size=2", "max_length=64")
    return small.job(folder, "align", *(f"train.align.{setting}" for setting in settings), shards=shards)


def readers(job: TrainingJob, num_workers: int = 1, **settings: Any) -> tuple[Reader, Reader]:
    source = open_source(job)
    plan = ready_plan(job, source, NullProgress())
    remote = RemoteSource(source, functools.partial(open_source, job, False), num_workers)
    common = {"micro_batch_size": 2, "pad_token_id": source.pad_token_id, "image_token_id": 4, **settings}
    here, there = open_reader(plan, source, **common), open_reader(plan, remote, **common)
    assert (type(here), type(there)) == (Reader, RayReader)
    return here, there


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other) and one.dtype == other.dtype
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if dataclasses.is_dataclass(one):
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one))
    return one == other


def check(one: StepData, other: StepData) -> None:
    assert one.step == other.step
    assert same(one.batches, other.batches)
    assert one.masked == other.masked
    assert list(one.pixels) == list(other.pixels)
    assert all(torch.equal(one.pixels[key], other.pixels[key]) for key in one.pixels)


@pytest.mark.parametrize(("num_workers", "first", "rank", "world"), [(2, 0, 0, 1), (1, 5, 1, 3)])
def test_steps_are_those_of_the_ranks_own_thread(
    job: TrainingJob, num_workers: int, first: int, rank: int, world: int
) -> None:
    here, there = readers(job, num_workers, rank=rank, world=world, flat=world > 1)
    expected, found = list(here.steps(first, ())), list(there.steps(first, ()))
    assert len(expected) == here.plan.num_steps - first
    for one, other in zip(expected, found, strict=True):
        check(one, other)
    assert any(step.masked for step in found) == (world == 1)


def test_an_image_whose_features_are_kept_is_sent_once(job: TrainingJob) -> None:
    here, there = readers(job)
    sent: list[ImageKey] = []
    for one, other in zip(here.steps(2, ()), there.steps(2, FeatureCache(10**9, 1000)), strict=True):
        sent += other.pixels
        assert same(one.batches, other.batches)
        assert one.masked == other.masked
        for key, made in one.pixels.items():
            assert torch.equal(other.pixels[key], made)  # also of those that came before
    assert len(sent) == len(set(sent)) <= 80


class Fails(Corpus):
    """Raises, or dies once, as images of the third shard are read."""

    died: Path | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "died": self.died}

    def read(self, shard: Any, rows: Any = None, truth: bool = False, images: bool = True) -> Iterator[Sample]:
        if images and self.shard(shard).shard == "00002":
            if self.died is None:
                raise CorpusError("00002", "has gone", "Bring it back")
            if not self.died.exists():
                self.died.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().read(shard, rows, truth, images)


def failing(job: TrainingJob, died: Path | None) -> Reader:
    plain, _ = readers(job)
    worse = dataclasses.replace(job, corpus=Fails(job.corpus.shards, job.corpus.index_store, job.corpus.columns, 10**6))
    worse.corpus.died = died
    remote = RemoteSource(open_source(job), functools.partial(open_source, worse, False), 1)
    return open_reader(plain.plan, remote, micro_batch_size=2, pad_token_id=plain.pad_token_id, image_token_id=4)


def test_what_a_data_worker_raises_is_raised_by_the_rank(job: TrainingJob) -> None:
    with pytest.raises(CorpusError, match="Bring it back"):
        list(failing(job, None).steps(0, ()))


def test_a_data_worker_that_dies_is_replaced(job: TrainingJob, tmp_path: Path) -> None:
    expected, _ = readers(job)
    found = list(failing(job, tmp_path / "died").steps(0, ()))
    assert (tmp_path / "died").exists()
    for one, other in zip(expected.steps(0, ()), found, strict=True):
        check(one, other)


def test_reading_can_stop_at_any_step(job: TrainingJob) -> None:
    _, there = readers(job)
    steps = there.steps(0, ())
    assert next(steps).step == 0
    steps.close()  # nothing hangs, nothing is left running


def test_a_stage_with_data_workers_learns_what_one_without_does(tmp_path: Path) -> None:
    alone = train_in_process(small.job(tmp_path / "1", "pretrain"), NullProgress())
    together = run_training(small.job(tmp_path / "2", "pretrain", "train.data_workers=1"), NullProgress())
    assert together.losses == [(step, pytest.approx(loss, abs=1e-5)) for step, loss in alone.losses]


def test_a_plan_is_the_same_wherever_its_lengths_are_measured(tmp_path: Path) -> None:
    here = ready_plan(small.job(tmp_path / "1", "pretrain"), None, NullProgress())
    there = ready_plan(small.job(tmp_path / "2", "pretrain"), None, NullProgress(), on_cluster)
    assert here.digest == there.digest
    worse = small.job(tmp_path / "3", "pretrain")
    for shard in (tmp_path / "3" / "pretrain").iterdir():
        shard.write_bytes(b"no tar at all")
    with pytest.raises(CorpusError, match="not a tar archive"):
        ready_plan(worse, None, NullProgress(), on_cluster)


def test_more_data_workers_than_the_cluster_has_cpus_for_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train.data_workers.*need 4 CPUs, and the cluster has 2"):
        run_training(small.job(tmp_path, "align", "train.num_workers=2", "train.data_workers=1"), NullProgress())


def test_caches_that_may_not_hold_all_are_not_relied_on(job: TrainingJob) -> None:
    _, there = readers(job)
    assert isinstance(there, RayReader)

    def num_shown(cached: Container[ImageKey]) -> int:
        return sum(sum(piece.shows) for piece in there.pieces(0, cached))

    every = there.plan.num_items
    assert num_shown(FeatureCache(10**9, 1000)) < every / 2
    assert num_shown(FeatureCache(10**9)) == num_shown(FeatureCache(10, 1000)) == num_shown(()) == every
