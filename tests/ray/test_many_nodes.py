"""Whole campaigns on nodes that come and go with their stages, labelled as `cluster/` labels them; GPUs are pretended.

A node is killed in every kind of stage. What comes out is what one undisturbed node makes of it.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from tests.e2e import micro
from tests.ray.autoscaling import LABEL, Pool, autoscaling_cluster, kill_node, nodes_at, pools_up, worker_nodes
from tests.unit.recaption.pictures import make_job, write_shards
from vila2_ray import Campaign
from vila2_ray.campaign.plan import stages
from vila2_ray.campaign.runner import run
from vila2_ray.campaign.state import Marker, read_markers
from vila2_ray.engines.fake import fake_caption
from vila2_ray.storage import Store

PATIENCE_SECONDS = 900.0
POOLS = {
    "cpu": Pool({"CPU": 2}, 2),
    "recaption": Pool({"CPU": 1, "GPU": 1}, 2, {LABEL: "recaption"}),
    "train": Pool({"CPU": 2, "GPU": 2}, 2, {LABEL: "train"}),
}
WORK = (
    "train.num_workers=2",
    "train.gpus_per_worker=1",
    "train.shard_size=2",
    "train.pretrain.num_epochs=4",
    "train.checkpoint_every_steps=1",
    "recaption.engine.gpus_per_actor=1",
    "recaption.engine.cpus_per_actor=0.5",
)
PLACES = (
    f"train.label_selector={{{LABEL}: train}}",
    f"recaption.engine.label_selector={{{LABEL}: recaption}}",
    "recaption.engine.min_actors=2",
    "recaption.engine.max_actors=2",
)


class Kill(NamedTuple):
    """When a stage has come to a file that matches, end the nodes that do its work."""

    stage: str
    file: str
    title: str
    """In the titles of the processes that do the work. Empty: whatever node there is, for its tasks are short."""


KILLS = (
    Kill("index", "*", ""),
    Kill("pretrain-0", "training/vlm-0/pretrain/**/last.json", "RayTrainWorker"),
    Kill("evaluate-0", "*", "ray::_examined"),
    Kill("recaption-1", "parts/round-1/**/*.parquet", "CaptionActor"),
    Kill("filter-1", "*", ""),
)


@pytest.fixture
def temporary() -> Iterator[Path]:
    """For Ray: a short path, as sockets need it."""
    folder = Path(tempfile.mkdtemp(prefix="v2n-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_a_node_lost_in_each_stage_costs_nothing_but_time(tmp_path: Path, temporary: Path) -> None:
    alone, folder = tmp_path / "alone", tmp_path / "lossy"
    ray.init(address="local", num_cpus=3, num_gpus=2, include_dashboard=False, log_to_driver=False)
    run(micro.config(alone, *WORK), until="filter-1")
    ray.shutdown()

    config = micro.config(folder, *WORK, *PLACES)
    names = [stage.name for stage in stages(config)]
    with autoscaling_cluster(temporary, POOLS) as head:
        with (
            beside(lambda over: watch(folder, names, over)) as seen,
            beside(lambda over: kill(head, folder, names, over)) as killed,
        ):
            run(config)
        wait_until(lambda: not worker_nodes(), "nodes without work were not let go")
    shown = table(seen, killed)
    print(shown)
    assert [stage for stage, _ in killed] == [kill.stage for kill in KILLS], f"not all were killed\n{shown}"
    check_nodes_follow_the_work(seen)
    check_training(read_markers(Store(str(alone))), read_markers(Store(str(folder))))
    check_captions(alone, folder)


def check_nodes_follow_the_work(seen: list[tuple[str, Counter[str]]]) -> None:
    """Each pool comes up for its stages, and those of other stages go meanwhile."""
    for stages_of, pool, other in (
        (("pretrain-0", "sft-0"), "train", "recaption"),
        (("recaption-1",), "recaption", "train"),
    ):
        during = [up for stage, up in seen if stage in stages_of]
        assert any(up[pool] for up in during), f"no node of {pool}"
        assert any(up[pool] and not up[other] for up in during), f"nodes of {other} did not go"
    assert max(up["recaption"] for _, up in seen) == 2


def check_training(expected: dict[str, Marker], found: dict[str, Marker]) -> None:
    """As many steps with the same losses, whether or not the gang was lost on the way."""
    for stage in ("align", "pretrain-0", "sft-0"):
        losses, others = (markers[stage].summary["losses"] for markers in (expected, found))
        assert len(losses) == found[stage].summary["num_steps"]
        assert others == [[step, pytest.approx(loss, abs=1e-6)] for step, loss in losses], stage
    assert found["evaluate-0"].summary["scores"] == expected["evaluate-0"].summary["scores"]


def check_captions(alone: Path, folder: Path) -> None:
    """Every sample once, in order, and with the words that one node has for it."""
    columns = ["source", "shard", "row", "variant", "sample_id", "status", "text", "image_sha256"]
    expected, found = (Campaign(str(c)).layer("round-1").to_pandas()[columns] for c in (alone, folder))
    assert len(found) == micro.NUM_PRETRAIN
    assert not found.duplicated(["source", "shard", "row", "variant"]).any()
    assert found.equals(expected)


def stage_of(folder: Path, names: list[str]) -> str:
    """The first that is not done."""
    return next((name for name in names if not (folder / "stages" / f"{name}.json").exists()), "")


def watch(folder: Path, names: list[str], over: threading.Event) -> Iterator[tuple[str, Counter[str]]]:
    """The running stage and the nodes by pool, twice a second."""
    while not over.wait(0.5):
        yield stage_of(folder, names), pools_up()


def kill(
    head: psutil.Process, folder: Path, names: list[str], over: threading.Event
) -> Iterator[tuple[str, list[str]]]:
    """KILLS, one after the other; a stage and the nodes that were ended in it."""
    for stage, file, title in KILLS:
        while not over.wait(0.05):
            if stage_of(folder, names) != stage or not any(folder.glob(file)):
                continue
            victims = nodes_at(head, title)[:1] if title else sorted(worker_nodes())
            if victims and stage_of(folder, names) == stage:
                for node in victims:
                    kill_node(head, node)
                yield stage, victims
                break


@contextlib.contextmanager
def beside(work: Callable[[threading.Event], Iterator[Any]]) -> Iterator[list[Any]]:
    """What `work` yields in a thread of its own while the context lasts."""
    made: list[Any] = []
    over = threading.Event()
    thread = threading.Thread(target=lambda: made.extend(work(over)), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        over.set()
        thread.join()


def table(seen: list[tuple[str, Counter[str]]], killed: list[tuple[str, list[str]]]) -> str:
    """The most and the fewest nodes of each pool by stage, and how many were killed."""
    lost = {stage: len(nodes) for stage, nodes in killed}
    lines = [f"{'stage':<14}" + "".join(f"{pool:>12}" for pool in POOLS) + f"{'killed':>8}"]
    for stage in dict.fromkeys(stage for stage, _ in seen):
        ups = [up for of, up in seen if of == stage]
        shown = "".join(f"{min(up[pool] for up in ups):>10}–{max(up[pool] for up in ups)}" for pool in POOLS)
        lines.append(f"{stage or 'after':<14}{shown}{lost.get(stage, ''):>8}")
    return "\n".join(lines)


def wait_until(is_true: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_true():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.3)


@pytest.mark.slow
def test_two_recaptionings_share_a_cluster_and_keep_apart(tmp_path: Path) -> None:
    known = {name: write_shards(tmp_path / name / "corpus", [48, 40], seed=seed) for seed, name in enumerate("ab")}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    drivers: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, num_gpus=1)
        command = [sys.executable, "-m", "tests.ray.sharing_driver", cluster.address]
        drivers = [subprocess.Popen([*command, str(tmp_path / name)]) for name in known]
        parts = [tmp_path / name / "layer" / "parts" for name in known]
        both = False
        deadline = time.monotonic() + PATIENCE_SECONDS
        while any(driver.poll() is None for driver in drivers):
            assert time.monotonic() < deadline
            both |= all(any(folder.rglob("*.parquet")) for folder in parts)
            time.sleep(0.1)
        assert [driver.wait() for driver in drivers] == [0, 0]
    finally:
        for driver in drivers:
            driver.kill()
        cluster.shutdown()
    assert both, "one went after the other"
    for name, pictures in known.items():
        job = make_job(tmp_path / name)
        rows = {(row["shard"], row["row"]): row for row in job.layer.to_table().to_pylist()}
        assert {key: row["text"] for key, row in rows.items()} == {
            key: fake_caption(digest, job.prompts.text(rows[key]["prompt_id"])) for key, digest in pictures.items()
        }
