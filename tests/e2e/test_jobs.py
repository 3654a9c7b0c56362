"""`vila2 run --job` as people use it: a head starts, the log is followed, the exit code is the job's, the head ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import micro
from vila2_ray import Campaign
from vila2_ray.cli_head import Head, stop

VILA2 = [sys.executable, "-m", "vila2_ray.cli"]


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A cache of its own (so a head of its own, with Ray's token authentication on), cleaned up whatever a test did."""
    variables = {**os.environ, "VILA2_CACHE": str(tmp_path / "cache"), "RAY_AUTH_MODE": "token"}
    variables["RAY_AUTH_TOKEN"] = "0123456789abcdef" * 4
    yield variables
    record = tmp_path / "cache" / "head.json"
    if record.exists():
        stop(Head(**json.loads(record.read_text())))


def run(words: list[str], environment: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*VILA2, *words], env=environment, cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )


def test_a_campaign_runs_as_a_job_and_a_second_one_finds_it_done(tmp_path: Path, environment: dict[str, str]) -> None:
    words = [
        "run",
        "--job",
        "--until",
        "index",
        *micro.overrides(Path("here")),
    ]  # relative: the job starts where we are
    first = run(words, environment, tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "starting a local Ray head" in first.stdout
    assert "▸ index" in first.stdout
    assert not (tmp_path / "cache" / "head.json").exists(), "the head that the command started is gone again"
    states = {row.name: row.state for row in Campaign(str(tmp_path / "here")).status()}
    assert states["index"] == "done"
    assert states["align"] == "missing"

    second = run([*words[:4], *words[4:]], environment, tmp_path)
    assert second.returncode == 0
    assert "nothing to do" in second.stdout


@pytest.mark.slow
def test_a_mistake_found_by_the_job_is_its_exit_code_and_sentence(tmp_path: Path, environment: dict[str, str]) -> None:
    words = ["run", "--job", *micro.overrides(tmp_path / "c", "corpus.pretrain=/nowhere/at/all")]
    done = run(words, environment, tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "/nowhere/at/all" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_ctrl_c_leaves_the_job_running_and_stop_ends_it(tmp_path: Path, environment: dict[str, str]) -> None:
    campaign = tmp_path / "c"
    words = ["run", "--job", *micro.overrides(campaign, "train.align.num_epochs=10000")]
    log = tmp_path / "log"
    with open(log, "w") as stream:
        follower = subprocess.Popen([*VILA2, *words], env=environment, cwd=tmp_path, stdout=stream, stderr=stream)
    _wait(lambda: "▸ align" in log.read_text(), log)
    follower.send_signal(signal.SIGINT)
    assert follower.wait(60) == 130
    assert "vila2 stop" in log.read_text()
    assert (tmp_path / "cache" / "head.json").exists()

    stopped = run(["stop", str(campaign)], environment, tmp_path)
    assert (stopped.returncode, stopped.stdout.strip()) == (0, "stopped"), stopped.stderr
    assert not (tmp_path / "cache" / "head.json").exists(), "nothing else ran on the head"
    assert run(["stop", str(campaign)], environment, tmp_path).stdout.strip() == "no job runs this campaign"


def _wait(condition: object, log: Path, seconds: float = 240) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.5)
