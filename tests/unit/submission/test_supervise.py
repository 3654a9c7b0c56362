"""Drivers that die are started again; answers, stops and drivers that get nowhere are not. Real processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vila2_ray.submission.supervise import REACHED, Reached, supervise


def driver(folder: Path, body: str) -> list[str]:
    """A driver that counts its starts in `starts` and then runs `body`, which knows `n` and `reach(done)`."""
    code = f"""
import json, os, signal, sys, time
from pathlib import Path
folder = Path({str(folder)!r})
n = int((folder / 'starts').read_text()) + 1 if (folder / 'starts').exists() else 1
(folder / 'starts').write_text(str(n))
def reach(done): Path(os.environ[{REACHED!r}]).write_text(json.dumps({{'index': done}}))
def die(): os.kill(os.getpid(), signal.SIGKILL)
{body}
"""
    return [sys.executable, "-c", code]


def starts(folder: Path) -> int:
    return int((folder / "starts").read_text())


@pytest.mark.parametrize("code", [0, 2, 3, 4, 130])
def test_an_answer_is_passed_on_and_not_asked_again(tmp_path: Path, code: int) -> None:
    assert supervise(driver(tmp_path, f"sys.exit({code})"), retries=3, backoff_seconds=0) == code
    assert starts(tmp_path) == 1


def test_a_driver_that_died_is_started_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert supervise(driver(tmp_path, "sys.exit(1) if n == 1 else die() if n == 2 else 0"), 3, 0) == 0
    assert starts(tmp_path) == 3
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("vila2: the driver ended with exit code 1; starting it again in 0 s (1 of 3 ")
    assert "killed by SIGKILL, as happens when memory runs out; starting it again" in said[1]


def test_one_that_gets_nowhere_ends_with_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert supervise(driver(tmp_path, "reach(7); die()"), retries=2, backoff_seconds=0) == 137
    assert starts(tmp_path) == 3
    assert "for the third time without getting further; not starting it again" in capsys.readouterr().err


def test_one_that_gets_further_every_time_may_die_often(tmp_path: Path) -> None:
    assert supervise(driver(tmp_path, "reach(n)\nif n < 6: die()"), retries=1, backoff_seconds=0) == 0
    assert starts(tmp_path) == 6


def test_a_driver_tells_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REACHED, str(tmp_path / "reached.json"))
    receiver = Reached(every_seconds=0)
    receiver.start("recaption-1", 100, "ranges")
    receiver.update(3)
    receiver.update(2)
    assert json.loads((tmp_path / "reached.json").read_text()) == {"recaption-1": 3}
    receiver.finish()
    assert json.loads((tmp_path / "reached.json").read_text()) == {"recaption-1": float("inf")}
    monkeypatch.delenv(REACHED)
    Reached(0).update(1)  # nobody watches


SUPERVISOR = """
import sys
from vila2_ray.submission.supervise import supervise
sys.exit(supervise(sys.argv[2:], 3, float(sys.argv[1])))
"""


def supervisor(command: list[str], backoff_seconds: float = 0) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-c", SUPERVISOR, str(backoff_seconds), *command]
    return subprocess.Popen(words, start_new_session=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_reaches_the_driver_which_ends_in_its_own_way(tmp_path: Path, number: signal.Signals) -> None:
    body = """
def end(*_):
    (folder / 'ended').write_text('well')
    sys.exit(1)
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGINT, end)
(folder / 'ready').touch()
time.sleep(300)
"""
    process = supervisor(driver(tmp_path, body))
    wait_for(lambda: (tmp_path / "ready").exists())
    process.send_signal(number)
    assert process.wait(60) == 128 + number
    assert (tmp_path / "ended").read_text() == "well"
    assert starts(tmp_path) == 1


def test_a_stop_between_two_drivers_starts_no_other(tmp_path: Path) -> None:
    process = supervisor(driver(tmp_path, "die()"), backoff_seconds=200)
    wait_for(lambda: (tmp_path / "starts").exists())
    time.sleep(0.5)  # either side of the death will do
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM
    assert starts(tmp_path) == 1


def test_no_driver_outlives_its_supervisor(tmp_path: Path) -> None:
    body = """
from vila2_ray.engines.orphans import end_with_parent
end_with_parent()
(folder / 'pid').write_text(str(os.getpid()))
time.sleep(300)
"""
    process = supervisor(driver(tmp_path, body))
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
    pid = int((tmp_path / "pid").read_text())
    process.kill()
    process.wait(60)
    wait_for(lambda: not is_alive(pid))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for(condition: object, seconds: float = 120) -> None:
    assert callable(condition)
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)
