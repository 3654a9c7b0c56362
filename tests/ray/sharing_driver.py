"""A driver that recaptions `folder/corpus` on a cluster that it shares: `python -m … address folder`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import ray

from tests.unit.recaption.pictures import make_job
from vila2_ray.config import EngineConfig
from vila2_ray.progress import NullProgress
from vila2_ray.recaption.pipeline import recaption


def main(address: str, folder: Path) -> None:
    (folder / "fake.json").write_text(json.dumps({"seconds_per_step": 1.0}))  # long enough to be seen beside the other
    ray.init(address=address, log_to_driver=False, logging_level="error")
    engine = EngineConfig(name="fake", batch_size=8, cpus_per_actor=0.5, gpus_per_actor=1)
    recaption(make_job(folder, engine=engine), NullProgress())
    ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
