"""What an engine starts ends with whoever started it, even if that is killed; and nothing else does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

CHILD = """
import sys, time
from vila2_ray.engines.orphans import end_with_parent
end_with_parent()
end_with_parent()
print("up", flush=True)
time.sleep(600)
"""
PARENT = """
import subprocess, sys, time
from vila2_ray.engines.orphans import children_end_with_us
with children_end_with_us(sys.argv[2]):
    child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""


def gone(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def kill(parent: subprocess.Popen[str]) -> None:
    parent.kill()
    parent.wait()
    assert parent.stdout is not None
    parent.stdout.close()


def wait_for_end(process: int) -> None:
    patience = time.monotonic() + 60
    while not gone(process):
        assert time.monotonic() < patience
        time.sleep(0.01)


def test_a_killed_parent_takes_its_child_along(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-c", PARENT, CHILD, str(scratch)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert not gone(child)
    assert os.getpgid(child) == child  # Ctrl-C is for the parent alone
    kill(parent)
    wait_for_end(child)
    assert not scratch.exists()


def test_others_are_left_alone() -> None:
    code = CHILD.replace("time.sleep(600)", "time.sleep(0.2)")
    for value in ("", str(os.getppid())):  # of a living process that is not the parent
        environment = {**os.environ, "VILA2_ENDS_WITH": value}
        subprocess.run([sys.executable, "-c", code], env=environment, check=True, stdout=subprocess.DEVNULL)


def test_a_process_takes_its_normal_share_again() -> None:
    code = """
import os, sys, threading
os.nice(5)
threading.Thread(target=threading.Event().wait, daemon=True).start()
from vila2_ray.engines.niceness import take_normal_niceness
allowed = take_normal_niceness()
threads = [int(name) for name in os.listdir("/proc/self/task")]
levels = {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads}
assert len(threads) > 1
assert levels == {0} or not allowed, levels
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_job_is_stopped_when_whoever_started_it_is_killed(tmp_path: Path) -> None:
    said = tmp_path / "said"
    job = f"""
import signal, sys, time
from pathlib import Path
from vila2_ray.engines.orphans import stop_when_alone
signal.signal(signal.SIGTERM, lambda *_: (Path({str(said)!r}).write_text("stopped"), sys.exit(0)))
stop_when_alone()
print("up", flush=True)
time.sleep(600)
"""
    starter = PARENT.replace("with children_end_with_us(sys.argv[2]):", "if True:")
    command = [sys.executable, "-c", starter, job, ""]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    kill(parent)
    wait_for_end(child)
    assert said.read_text() == "stopped"
