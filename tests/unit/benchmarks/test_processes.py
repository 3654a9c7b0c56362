"""A benchmark ends all that it started and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.trials.processes import Seen, Server, cpu_between, look

STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("here", flush=True)
time.sleep(60)
"""
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {STUBBORN!r}], stdout=subprocess.PIPE, start_new_session=True)
child.stdout.readline()
print(child.pid, flush=True)
"""


def wait_for(condition: object, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks into /proc")
def test_what_left_its_parent_and_its_session_is_found_and_ended(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE) as stranger:
        server = Server.start([sys.executable, "-c", PARENT], {}, tmp_path / "log", stdout=subprocess.PIPE)
        assert server.process.stdout is not None
        child = int(server.process.stdout.readline())
        wait_for(lambda: server.process.poll() is not None)
        assert [seen.pid for seen in server.all()] == [child]
        assert server.end(patience=0.2) == ["python -c"]
        wait_for(lambda: look(child) is None)
        assert server.end(patience=0.2) == []
        assert look(stranger.pid) is not None
        stranger.kill()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_an_interrupted_server_that_ends_leaves_nothing(tmp_path: Path) -> None:
    waiting = "import time\ntry:\n    print(1, flush=True)\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print(2)"
    server = Server.start([sys.executable, "-c", waiting], {}, tmp_path / "log", stdout=subprocess.PIPE)
    assert server.process.stdout is not None
    server.process.stdout.readline()
    assert server.end() == []
    assert server.process.stdout.read() == b"2\n"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_processor_time_is_of_the_process_alone() -> None:
    seen = look(os.getpid())
    assert seen is not None
    assert seen.cpu_seconds <= sum(os.times()[:2]) + 0.1
    assert look(2**22 + 1) is None


def test_a_process_that_changes_its_title_is_still_the_same() -> None:
    before = [Seen(7, 100, 1, "ray::IDLE", 5.0), Seen(8, 100, 1, "raylet", 1.0)]
    after = [Seen(7, 100, 1, "ray::Replica", 5.5), Seen(8, 200, 1, "raylet", 0.25), Seen(9, 100, 1, "raylet", 0.5)]
    assert cpu_between(before, after) == {"ray::Replica": 0.5, "raylet": 0.75}
