"""An autoscaling cluster of pretended GPU nodes: none at first, then as many as there is work for."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from tests.ray.autoscaling import autoscaling_cluster, worker_nodes
from tests.unit.recaption.pictures import make_job, write_shards
from vila2_ray.config import EngineConfig
from vila2_ray.engines.fake import fake_caption
from vila2_ray.progress import NullProgress
from vila2_ray.recaption.pipeline import recaption


@pytest.fixture
def temporary() -> Iterator[Path]:
    """For Ray: a short path, as sockets need it."""
    folder = Path(tempfile.mkdtemp(prefix="v2e-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_nodes_come_with_the_work(tmp_path: Path, temporary: Path) -> None:
    known = write_shards(tmp_path / "corpus", [200, 200, 120])
    (tmp_path / "fake.json").write_text(json.dumps({"seconds_per_step": 1.0}))
    engine = EngineConfig(name="fake", batch_size=16, min_actors=1, max_actors=2, cpus_per_actor=0.5, gpus_per_actor=1)
    job = make_job(tmp_path, engine=engine)
    seen: list[int] = []
    with autoscaling_cluster(temporary, max_workers=2):
        assert worker_nodes() == 0
        watcher = threading.Thread(target=watch, args=(seen,), daemon=True)
        watcher.start()
        summary = recaption(job, NullProgress())
    assert max(seen) == 2, seen
    rows = job.layer.to_table().to_pylist()
    assert {(r["shard"], r["row"]): r["text"] for r in rows} == {
        key: fake_caption(digest, job.prompts.text(row["prompt_id"]))
        for (key, digest), row in zip(known.items(), rows, strict=True)
    }
    assert summary.num_rows == len(rows) == 520


def watch(seen: list[int]) -> None:
    """Count nodes while there is a cluster."""
    with contextlib.suppress(ray.exceptions.RaySystemError):
        while ray.is_initialized():
            time.sleep(0.3)
            seen.append(worker_nodes())
