"""An autoscaling cluster of pretended GPU nodes: none, then as many as there is work for, one lost, then none again."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray

from tests.ray.autoscaling import autoscaling_cluster, raylets_of_workers, worker_nodes
from tests.unit.recaption.pictures import make_job, write_shards
from vila2_ray.config import EngineConfig
from vila2_ray.engines.fake import fake_caption
from vila2_ray.progress import NullProgress
from vila2_ray.recaption.job import RecaptionJob
from vila2_ray.recaption.pipeline import recaption


@pytest.fixture
def temporary() -> Iterator[Path]:
    """For Ray: a short path, as sockets need it."""
    folder = Path(tempfile.mkdtemp(prefix="v2e-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_nodes_come_and_go_with_the_work_and_a_lost_one_costs_nothing(tmp_path: Path, temporary: Path) -> None:
    known = write_shards(tmp_path / "corpus", [200, 200, 120])
    (tmp_path / "fake.json").write_text(json.dumps({"seconds_per_step": 1.0}))
    engine = EngineConfig(name="fake", batch_size=16, min_actors=1, max_actors=2, cpus_per_actor=0.5, gpus_per_actor=1)
    job = make_job(tmp_path, engine=engine)
    seen: list[int] = []
    lost: list[int] = []
    with autoscaling_cluster(temporary, max_workers=2) as head:
        assert worker_nodes() == 0
        watcher = threading.Thread(target=watch, args=(job, head, seen, lost), daemon=True)
        watcher.start()
        summary = recaption(job, NullProgress())
        until = time.monotonic() + 300  # Ray Data takes back what it has asked the autoscaler for after two minutes
        while worker_nodes() and time.monotonic() < until:
            time.sleep(1)
        assert worker_nodes() == 0, "nodes without work are let go"
    assert max(seen) == 2, seen
    assert lost, "no node was killed, so nothing was tested"
    rows = job.layer.to_table().to_pylist()
    assert {(r["shard"], r["row"]): r["text"] for r in rows} == {
        key: fake_caption(digest, job.prompts.text(row["prompt_id"]))
        for (key, digest), row in zip(known.items(), rows, strict=True)
    }
    assert summary.num_rows == len(rows) == 520


def watch(job: RecaptionJob, head: psutil.Process, seen: list[int], lost: list[int]) -> None:
    """Count nodes; when both are up and a few ranges are done, kill one."""
    while ray.is_initialized():
        time.sleep(0.3)
        seen.append(worker_nodes())
        if seen[-1] == 2 and not lost and len(job.parts.ranges()):
            raylets = raylets_of_workers(head)
            if len(raylets) == 2:
                raylets[0].kill()
                lost.append(raylets[0].pid)
