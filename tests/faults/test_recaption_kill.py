"""kill -9 of the driver at random moments of a recaptioning: the end is the same as of an undisturbed run."""

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

import pytest

from tests.unit.recaption.pictures import make_job, write_shards
from vila2_ray.engines.fake import FakeEngine
from vila2_ray.recaption.plan import find_work
from vila2_ray.recaption.rows import caption, to_table

REPOSITORY = Path(__file__).parents[2]
SIZES = [90, 40, 0, 61]


@pytest.fixture
def temporary() -> Iterator[Path]:
    """For Ray: a short path, as sockets need it."""
    folder = Path(tempfile.mkdtemp(prefix="v2k-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def driver(folder: Path, name: str, temporary: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A driver with a Ray of its own; whatever is left of the two is gone afterwards."""
    command = [sys.executable, str(REPOSITORY / "tests/faults/recaption_driver.py"), str(folder), name, str(temporary)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    with open(folder / "driver.log", "ab") as log:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def rows_there(folder: Path, name: str) -> int:
    job = make_job(folder, name, num_variants=2)
    return find_work(job.corpus, job.layer, job.parts, job.config.range_rows).rows_done


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_recaptioning_ends_as_an_undisturbed_one(tmp_path: Path, temporary: Path, seed: int) -> None:
    rng = random.Random(seed)
    write_shards(tmp_path / "corpus", SIZES, {(0, 3): b"no picture", (1, 39): b""}, seed=seed)
    (tmp_path / "fake.json").write_text(json.dumps({"seconds_per_step": 0.1}))
    kills = sorted(rng.sample(range(1, sum(SIZES) - 16), 2))
    done_at_kill = []
    for at_rows in kills:
        with driver(tmp_path, "killed", temporary) as process:
            deadline = time.monotonic() + 120
            while rows_there(tmp_path, "killed") < at_rows and process.poll() is None:
                assert time.monotonic() < deadline, (tmp_path / "driver.log").read_text()[-2000:]
                time.sleep(0.02)
            time.sleep(rng.random() * 0.3)
            process.send_signal(signal.SIGKILL)
            process.wait()
            done_at_kill.append(rows_there(tmp_path, "killed"))
    assert done_at_kill[0] < sum(SIZES), "killed too late to prove anything"
    assert done_at_kill == sorted(done_at_kill), "what was done stays done"
    with driver(tmp_path, "killed", temporary) as process:
        assert process.wait(180) == 0, (tmp_path / "driver.log").read_text()[-2000:]
    killed = make_job(tmp_path, "killed", num_variants=2)
    assert killed.layer.to_table().equals(undisturbed(tmp_path))
    assert killed.parts.ranges() == {}
    assert len({json.dumps(killed.layer.metadata(*shard)["plan_key"]) for shard in killed.layer.shards()}) == 1


def undisturbed(folder: Path) -> object:
    """The layer, made here in one go."""
    job = make_job(folder, "undisturbed", num_variants=2)
    for ref in job.corpus.shards:
        num_rows = job.corpus.num_rows(ref)
        rows = caption(FakeEngine(), job.corpus.read(ref), job.plan)
        job.layer.write(ref.source, ref.shard, to_table(rows, 0, num_rows, 2))
    return job.layer.to_table()
