"""A driver that trains a small stage on a running cluster, to be killed: `python … folder num_workers address`."""

from __future__ import annotations

import sys
from pathlib import Path

import ray

from tests.unit.train import small
from vila2_ray.progress import NullProgress
from vila2_ray.train.job import TrainingJob
from vila2_ray.train.trainer import run_training


def make_job(folder: Path, num_workers: int, *settings: str) -> TrainingJob:
    """A stage long enough to be killed in; every driver that is given the folder goes on with the same work."""
    shards = folder / "pretrain"
    return small.job(
        folder, "pretrain", f"train.num_workers={num_workers}", "train.checkpoint_every_steps=1",
        "train.pretrain.num_epochs=10", "train.cpus_per_worker=0.5", *settings,
        shards=shards if shards.exists() else None,
    )  # fmt: skip


def main(folder: Path, num_workers: int, address: str) -> None:
    ray.init(address=address, log_to_driver=False, logging_level="error")
    run_training(make_job(folder, num_workers), NullProgress())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
