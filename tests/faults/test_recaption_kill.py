"""kill -9 at random moments of a recaptioning: driver, actor, engine, node or head. The end is always the same."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow as pa
import pytest

from tests.unit.recaption.pictures import make_job, write_shards
from vila2_ray.engines.fake import FakeEngine
from vila2_ray.recaption.plan import find_work
from vila2_ray.recaption.rows import caption, to_table

REPOSITORY = Path(__file__).parents[2]
SIZES = [90, 40, 0, 61]
VICTIMS = ("driver", "actor", "node", "head", "engine")
PATIENCE = 300


@pytest.fixture
def temporary() -> Iterator[Path]:
    """For Ray: a short path, as sockets need it."""
    folder = Path(tempfile.mkdtemp(prefix="v2k-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def driver(folder: Path, temporary: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A driver with a Ray of its own; whatever is left of the two is gone afterwards."""
    command = [
        sys.executable,
        str(REPOSITORY / "tests/faults/recaption_driver.py"),
        str(folder),
        "killed",
        str(temporary),
    ]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    environment.update(RAY_gcs_rpc_server_reconnect_timeout_s="5", RAY_health_check_failure_threshold="2")
    with open(folder / "driver.log", "ab") as log:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield process
    finally:
        raylets = [pid for pids in told_pids(folder).values() for pid in pids]  # of a driver that is gone, too
        for pid in [*(left.pid for left in family(process)), *raylets, process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        (folder / "killed.pids").unlink(missing_ok=True)


def family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Every process that the driver started, and those that they started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(process.pid).children(recursive=True)
    return []


def kill(victim: str, process: subprocess.Popen[bytes], folder: Path, rng: random.Random) -> None:
    """Kill one of that kind, if there is one at this moment. The engine lives in its actor's process."""
    if victim == "driver":
        process.kill()
        process.wait()
    elif victim in ("actor", "engine"):
        actors = [p for p in family(process) if "MapBatches(CaptionActor)" in " ".join(command_of(p))]
        if actors:
            rng.choice(actors).kill()
    else:
        pids = told_pids(folder)[victim]
        for pid in [rng.choice(pids)] if victim == "node" else pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def told_pids(folder: Path) -> dict[str, list[int]]:
    """Of the driver's nodes and head, as far as it has told."""
    told = folder / "killed.pids"
    return dict(json.loads(told.read_text())) if told.is_file() else {}


def command_of(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return process.cmdline()
    return []


def rows_there(folder: Path) -> int:
    job = make_job(folder, "killed", num_variants=2)
    return find_work(job.corpus, job.layer, job.parts, job.config.range_rows).rows_done


def log_of(folder: Path) -> str:
    return (folder / "driver.log").read_text()[-3000:]


SLOW = [pytest.param(seed, random.Random(seed).choice(VICTIMS), marks=pytest.mark.slow) for seed in range(3, 103)]
SLOW.append(pytest.param(1, "actor", marks=pytest.mark.slow))


@pytest.mark.parametrize(("seed", "victim"), [(0, "driver"), (2, "node"), *SLOW])
def test_a_killed_recaptioning_ends_as_an_undisturbed_one(
    tmp_path: Path, temporary: Path, seed: int, victim: str
) -> None:
    rng = random.Random(seed)
    write_shards(tmp_path / "corpus", SIZES, {(0, 3): b"no picture", (1, 39): b""}, seed=seed)
    behaviour = {"seconds_per_step": 0.1}
    if victim == "engine":  # by its own means, a few times
        behaviour.update(die_after_steps=rng.randint(1, 9), max_deaths=2)
    (tmp_path / "fake.json").write_text(json.dumps(behaviour))
    done_at_kill = sum(SIZES)
    ends_the_driver = victim in ("driver", "head")
    with driver(tmp_path, temporary) as process:
        for at_rows in sorted(rng.sample(range(1, sum(SIZES) - 16), 1 if ends_the_driver else 2)):
            wait_for(at_rows, process, tmp_path)
            time.sleep(rng.random() * 0.3)
            done_at_kill = rows_there(tmp_path)
            kill(victim, process, tmp_path, rng)
        status = process.wait(PATIENCE)  # a driver without a head comes to an end by itself
        assert (status != 0) == ends_the_driver, log_of(tmp_path)
    if ends_the_driver:
        done = rows_there(tmp_path)
        assert done_at_kill < sum(SIZES), "killed too late to prove anything"
        with driver(tmp_path, temporary) as process:
            assert process.wait(PATIENCE) == 0, log_of(tmp_path)
        summary = json.loads((tmp_path / "killed.summary").read_text())
        assert summary["num_samples"] <= sum(SIZES) - done, "nothing that was done is done again"
    job = make_job(tmp_path, "killed", num_variants=2)
    assert job.layer.to_table().equals(undisturbed(tmp_path))
    assert job.parts.ranges() == {}


def wait_for(rows: int, process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while rows_there(folder) < rows and process.poll() is None:
        assert time.monotonic() < deadline, log_of(folder)
        time.sleep(0.02)


def undisturbed(folder: Path) -> pa.Table:
    """The layer, made here in one go."""
    job = make_job(folder, "undisturbed", num_variants=2)
    for ref in job.corpus.shards:
        num_rows = job.corpus.num_rows(ref)
        rows = caption(FakeEngine(), job.corpus.read(ref), job.plan)
        job.layer.write(ref.source, ref.shard, to_table(rows, 0, num_rows, 2))
    return job.layer.to_table()
