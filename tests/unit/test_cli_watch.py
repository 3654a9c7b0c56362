"""`vila2 status --watch`: what it shows of a driver's `live.json`, and when it ends."""

from __future__ import annotations

import io
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.unit.campaign.folders import ROUND_0, begin, finish
from vila2_ray import cli, cli_watch
from vila2_ray.campaign.api import Campaign
from vila2_ray.campaign.live import Live, write_live
from vila2_ray.cli_watch import Watcher, drawn, line
from vila2_ray.storage import Store

LIVE = Live(
    host="node-7",
    pid=4711,
    started_at=1.0,
    beat=5,
    stage="recaption-1",
    step="round-1",
    unit="images",
    done=1200,
    total=4000,
    rate=20.0,
    figures={"output_tokens": 60_000.0, "captions": 1190.0},
    spent={"recaption-1": {"seconds": 60.0, "gpu_seconds": 7200.0, "dollars": 3.5}},
    dead_letters={"image_unreadable": 10},
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(cli_watch, "LOOK_SECONDS", 0.05)
    finish(begin(tmp_path / "c"), *ROUND_0, summary={"pretrain": {"num_samples": 4000}})
    return str(tmp_path / "c")


def told(folder: str, **changes: object) -> None:
    write_live(Store(folder), replace(LIVE, written_at=time.time(), **changes))  # type: ignore[arg-type]


def text(shown: object) -> str:
    out = Console(file=io.StringIO(), width=200)
    out.print(shown)
    return out.file.getvalue()  # type: ignore[attr-defined]


@contextmanager
def telling(folder: str, *beats: dict[str, object]) -> Iterator[None]:
    """A driver that tells these, one after the other."""
    told(folder)
    over = threading.Event()

    def work() -> None:
        for number, changes in enumerate(beats):
            over.wait(0.5)
            told(folder, beat=6 + number, **changes)

    driver = threading.Thread(target=work)
    driver.start()
    try:
        yield
    finally:
        over.set()
        driver.join()


def test_a_driver_at_work(folder: str) -> None:
    told(folder)
    sight = Watcher(Campaign(folder)).look()
    shown = text(drawn(sight))
    for words in (
        "recaption-1", "1,200/4,000 images (round-1)", "20/s", "2 min left", "60,000 tokens", "$3.50 so far",
        "2.0 GPU-hours", "dead letters: 10 image_unreadable", "process 4711 on node-7",
    ):  # fmt: skip
        assert words in shown
    assert "done" in next(row for row in shown.splitlines() if "evaluate-0" in row)
    assert "no sign of life" not in shown
    assert line(sight).startswith("recaption-1  1,200/4,000 images (round-1)  20/s  2 min left")


def test_a_small_terminal_shows_the_stages_around_the_running_one(folder: str) -> None:
    told(folder)
    sight = Watcher(Campaign(folder)).look()
    shown = text(drawn(sight, 6))
    assert [word in shown for word in ("3 before", "sft-0", "recaption-1", "filter-1", "to come")] == 5 * [True]
    assert len(shown.splitlines()) <= 6 + cli_watch._LINES_BESIDE_STAGES
    last = text(drawn(replace(sight, live=replace(LIVE, stage=sight.stages[-1])), 6))
    assert sight.stages[-1] in last
    assert "to come" not in last


def test_a_silent_driver_is_told_of(folder: str) -> None:
    told(folder)
    now = [50.0]
    watcher = Watcher(Campaign(folder), now=lambda: now[0])
    assert not watcher.look().is_silent
    now[0] += 40
    assert watcher.look().is_silent
    assert "no sign of life for 4" in text(drawn(watcher.look()))
    assert "no sign of life for 4" in line(watcher.look())
    told(folder, beat=6)
    assert not watcher.look().is_silent


def test_how_old_it_is_at_the_first_look_is_told_by_the_time_of_day(folder: str) -> None:
    write_live(Store(folder), replace(LIVE, written_at=time.time() - 3600))
    assert 3590 < Watcher(Campaign(folder)).look().silent_seconds < 3700


def test_markers_are_read_again_when_the_driver_has_moved_on(folder: str) -> None:
    told(folder)
    watcher = Watcher(Campaign(folder))
    assert "recaption-1" not in watcher.look().finished
    finish(Campaign(folder).config, "recaption-1", summary={})
    assert "recaption-1" not in watcher.look().finished
    told(folder, stage="filter-1")
    assert "recaption-1" in watcher.look().finished


def test_lines_where_there_is_no_terminal(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    beats = ({"done": 1300}, {"done": 1300}, {"stage": "", "unit": "", "rate": 0.0, "figures": {}}, {"ended": "done"})
    with telling(folder, *beats):
        assert cli.main(["status", folder, "--watch"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("1,300/4,000") == 1
    assert "no driver runs it now" in shown
    assert "\x1b" not in shown


def test_a_campaign_that_nobody_runs_is_shown_once(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", folder, "--watch"]) == 0
    shown = capsys.readouterr().out
    assert "evaluate-0" in shown
    assert "no driver runs it now" in shown


def test_a_failure_is_its_exit_code(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    with telling(folder, {"ended": "failed", "why": "sft-0: [the] loss is no number"}):
        assert cli.main(["status", folder, "-w"]) == 1
    assert "the last one failed: sft-0: [the] loss is no number" in capsys.readouterr().out


def test_at_a_terminal_ctrl_c_ends_the_watching_alone(folder: str) -> None:
    told(folder)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "vila2_ray.cli", "status", folder, "--watch"]
    watching = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    try:
        shown = b""
        while b"Ctrl-C" not in shown:  # the table is whole
            assert select.select([ours], [], [], 60)[0], shown.decode()
            shown += os.read(ours, 4096)
        assert b"recaption-1" in shown
        watching.send_signal(signal.SIGINT)
        _, said = watching.communicate(timeout=60)
    finally:
        watching.kill()
        os.close(ours)
    assert (watching.returncode, said.decode().strip()) == (0, "no longer watching; the campaign goes on")
