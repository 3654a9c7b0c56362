"""A driver that recaptions `folder/corpus` into `folder/<name>`, to be killed: `python … folder name temporary`."""

from __future__ import annotations

import sys
from pathlib import Path

import ray

from tests.unit.recaption.pictures import make_job
from vila2_ray.config import EngineConfig
from vila2_ray.progress import NullProgress
from vila2_ray.recaption.pipeline import recaption


def main(folder: Path, name: str, temporary: str) -> None:
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        object_store_memory=100_000_000,
        _temp_dir=temporary,
    )
    engine = EngineConfig(name="fake", batch_size=8, max_actors=2, cpus_per_actor=0.5)
    recaption(make_job(folder, name, num_variants=2, engine=engine), NullProgress())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
