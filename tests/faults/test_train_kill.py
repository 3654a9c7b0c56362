"""Training is killed and goes on, with another number of workers, too: the curve is an undisturbed run's."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import ray

from tests.faults.train_driver import make_job
from vila2_ray.progress import NullProgress
from vila2_ray.train.job import TrainingSummary
from vila2_ray.train.trainer import run_training, train_in_process

pytestmark = pytest.mark.usefixtures("ray_cluster")
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> TrainingSummary:
    return train_in_process(make_job(tmp_path_factory.mktemp("alone"), 1), NullProgress())


def same(found: TrainingSummary, expected: TrainingSummary) -> None:
    assert found.losses == [(step, pytest.approx(loss, abs=1e-4)) for step, loss in expected.losses]
    assert found.num_steps == len(expected.losses) == 30


def kill_driver(process: subprocess.Popen[bytes], _: int) -> None:
    process.kill()


def workers() -> list[psutil.Process]:
    """Processes of Ray Train's ranks on this machine's test cluster."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def kill_rank(_: subprocess.Popen[bytes], seed: int) -> None:
    if ranks := workers():
        random.Random(seed).choice(ranks).kill()


def kill_ranks(_: subprocess.Popen[bytes], seed: int) -> None:
    for process in workers():
        process.kill()


KILLS: dict[str, Callable[[subprocess.Popen[bytes], int], None]] = {
    "driver": kill_driver,
    "rank": kill_rank,
    "all ranks": kill_ranks,
}
CASES = [
    pytest.param("driver", 1, (2, 1), id="driver-fewer"),
    *(
        pytest.param(list(KILLS)[seed % 3], seed, ((1, 2), (2, 1), (2, 2))[seed // 3 % 3], marks=pytest.mark.slow)
        for seed in range(30)
        if seed != 1
    ),
]


@pytest.mark.parametrize(("what", "seed", "num_workers"), CASES)
def test_a_killed_stage_goes_on(
    tmp_path: Path, expected: TrainingSummary, what: str, seed: int, num_workers: tuple[int, int]
) -> None:
    before, after = num_workers
    state = Path(make_job(tmp_path, before).state.uri)
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, str(REPOSITORY / "tests/faults/train_driver.py"), str(tmp_path), str(before), address]
    with (tmp_path / "driver.log").open("wb") as log:
        driver = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, stdout=log, stderr=log, start_new_session=True
        )
        try:
            wait_for_a_save(state, driver, random.Random(seed).randrange(1, 12))
            KILLS[what](driver, seed)
            if what != "driver":
                assert driver.wait(timeout=300) == 0, (tmp_path / "driver.log").read_text()[-2000:]
        finally:
            if driver.poll() is None:
                os.killpg(driver.pid, signal.SIGKILL)
            driver.wait()
    same(run_training(make_job(tmp_path, after), NullProgress()), expected)


def wait_for_a_save(state: Path, driver: subprocess.Popen[bytes], step: int) -> None:
    """Until state of that step or a later one is saved."""
    until = time.monotonic() + 240
    while time.monotonic() < until and driver.poll() is None:
        try:
            if json.loads((state / "last.json").read_text())["kept"][-1]["step"] >= step:
                return
        except FileNotFoundError:
            pass
        time.sleep(0.02)
    pytest.fail(f"no state was saved; the driver: {driver.poll()}")
