"""An autoscaling cluster of pretended GPU nodes: none at first, as many as there is work for, none afterwards."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

from tests.ray.autoscaling import autoscaling_cluster, caption_actors, kill_node, worker_nodes
from tests.unit.recaption.pictures import Known, make_job, write_shards
from vila2_ray.config import EngineConfig
from vila2_ray.engines.fake import fake_caption
from vila2_ray.progress import NullProgress
from vila2_ray.recaption.job import RecaptionJob
from vila2_ray.recaption.pipeline import recaption


class Notes(NullProgress):
    """Remembers what the log is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


PATIENCE = 240.0
"""Seconds for what takes twenty on a machine that has nothing else to do."""


@pytest.fixture
def temporary() -> Iterator[Path]:
    """For Ray: a short path, as sockets need it."""
    folder = Path(tempfile.mkdtemp(prefix="v2e-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_nodes_come_with_the_work_and_go_with_it(tmp_path: Path, temporary: Path) -> None:
    known = write_shards(tmp_path / "corpus", [200, 200, 120])
    job = slow_job(tmp_path)
    with autoscaling_cluster(temporary):
        assert not worker_nodes()
        with watched() as seen:
            summary = recaption(job, NullProgress())
            wait_until(lambda: not worker_nodes(), "the nodes were not let go")
    assert max(map(len, seen)) == 2
    assert summary.num_rows == 520
    check(job, known)


@pytest.mark.slow
def test_a_killed_node_is_replaced_and_no_sample_is_lost(tmp_path: Path, temporary: Path) -> None:
    known = write_shards(tmp_path / "corpus", [400, 400, 400])
    job = slow_job(tmp_path)
    with autoscaling_cluster(temporary) as head, watched() as seen:
        killed: list[str] = []

        def kill_one_of_two() -> None:
            wait_until(lambda: len(caption_actors(head)) == 2 and bool(job.parts.ranges()), "the work did not begin")
            killed.append(min(worker_nodes()))
            kill_node(head, killed[0])

        killer = threading.Thread(target=kill_one_of_two, daemon=True)
        killer.start()
        told = Notes()
        summary = recaption(job, told)
        killer.join(PATIENCE)
        wait_until(lambda: not worker_nodes(), "the nodes were not let go")
    assert killed, "nothing was killed, so nothing was tested"
    survived = [nodes for nodes in seen if nodes and killed[0] not in nodes]
    assert any(len(nodes) == 2 for nodes in survived), "nobody took the killed node's place"
    assert summary.num_samples == summary.num_captioned == 1200
    assert any("trying them once more" in text for text in told.notes)
    assert not any("smaller pieces" in text for text in told.notes), "the ranges of a lost node are not at fault"
    check(job, known)


def slow_job(folder: Path) -> RecaptionJob:
    """A step a second, so that the autoscaler has time to do something about it."""
    (folder / "fake.json").write_text(json.dumps({"seconds_per_step": 1.0}))
    engine = EngineConfig(name="fake", batch_size=16, min_actors=1, max_actors=2, cpus_per_actor=0.5, gpus_per_actor=1)
    return make_job(folder, engine=engine)


def check(job: RecaptionJob, known: Known) -> None:
    """Every sample once, with its own caption."""
    rows = job.layer.to_table().to_pylist()
    assert {(row["shard"], row["row"]): row["text"] for row in rows} == {
        key: fake_caption(digest, job.prompts.text(row["prompt_id"]))
        for (key, digest), row in zip(known.items(), rows, strict=True)
    }


@contextlib.contextmanager
def watched() -> Iterator[list[set[str]]]:
    """The sets of worker nodes, as they are seen one after the other while the context lasts."""
    seen: list[set[str]] = []
    over = threading.Event()

    def watch() -> None:
        with contextlib.suppress(ray.exceptions.RaySystemError):
            while not over.wait(0.3):
                seen.append(worker_nodes())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def wait_until(is_true: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_true():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.3)
