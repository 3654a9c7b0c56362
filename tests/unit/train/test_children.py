"""Programs run for a stage: their output is kept, and they end with us, however we end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vila2_ray.errors import BudgetSpent
from vila2_ray.train.children import run_child


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: object, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def test_output_is_kept_and_told_and_the_exit_code_is_the_programs(tmp_path: Path) -> None:
    heard: list[str] = []
    code = "import sys; print('one', flush=True); print('two', file=sys.stderr); sys.exit(7)"
    ended = run_child([sys.executable, "-c", code], tmp_path / "a" / "log", on_line=heard.append)
    assert (ended.code, ended.timed_out) == (7, False)
    assert heard == ended.tail == ["one", "two"] == (tmp_path / "a" / "log").read_text().split()
    run_child(["sh", "-c", "echo three; kill -9 $$"], tmp_path / "a" / "log")
    assert (tmp_path / "a" / "log").read_text().split() == ["one", "two", "three"]
    with pytest.raises(FileNotFoundError, match="no such program"):
        run_child(["surely-not-a-program"], tmp_path / "log")


def test_the_environment_is_ours_but_for_what_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    told = {"RANK": None, "WORD": "x"}
    ended = run_child(["sh", "-c", "echo $RANK:$WORD:${PATH:+path}"], tmp_path / "log", environment=told)
    assert ended.tail == [":x:path"]


def test_what_it_left_behind_ends_with_it(tmp_path: Path) -> None:
    ended = run_child(["sh", "-c", "sleep 300 & echo $!"], tmp_path / "log")
    assert ended.code == 0
    wait_until(lambda: not alive(int(ended.tail[0])))


def test_it_is_asked_to_end_when_its_time_is_over(tmp_path: Path) -> None:
    began = time.monotonic()
    script = "trap 'echo asked; exit 3' TERM; echo ready; while true; do sleep 0.05; done"
    ended = run_child(["sh", "-c", script], tmp_path / "log", timeout_seconds=1.0)
    assert ended.timed_out
    assert (ended.tail[0], ended.tail[-1]) == ("ready", "asked")
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_us(tmp_path: Path, number: int) -> None:
    inner = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(300)"
    outer = (
        "import sys; from pathlib import Path; from vila2_ray.train.children import run_child\n"
        f"run_child([sys.executable, '-c', {inner!r}], Path({str(tmp_path / 'log')!r}))"
    )
    ours = subprocess.Popen([sys.executable, "-c", outer], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    pid = int((tmp_path / "pid").read_text())
    assert alive(pid)
    ours.send_signal(number)
    ours.wait(20)
    wait_until(lambda: not alive(pid))


def test_it_is_asked_to_end_when_who_listens_raises_and_that_is_passed_on(tmp_path: Path) -> None:
    script = "trap 'echo asked; exit 3' TERM; echo ready; while true; do sleep 0.05; done"

    def listen(line: str) -> None:
        raise BudgetSpent(5.0, 5.0, line)

    with pytest.raises(BudgetSpent, match="ready"):
        run_child(["sh", "-c", script], tmp_path / "log", on_line=listen)
    said = (tmp_path / "log").read_text().splitlines()
    assert (said[0], said[-1]) == ("ready", "asked")
