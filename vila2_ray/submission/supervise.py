"""A driver that dies is started again: the driver is a child of this process, which does nothing but watch it.

A death counts against `retries` unless that driver got further than any before it: a stage that none had finished, or
more units of one. So a campaign survives any number of lost drivers, and one that always dies at the same place ends.
A mistake (2), a campaign that another driver runs (3), a spent budget (4) and a stop are answers, not deaths.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from vila2_ray.engines.orphans import children_end_with_us
from vila2_ray.submission.endings import killed_by

REACHED = "VILA2_REACHED"
"""File in which a driver under supervision tells how far it is."""
ANSWERS = (0, 2, 3, 4, 130)
END_SECONDS = 25.0
"""What a driver that was told to end is given, before it is killed."""
FINISHED = float("inf")


class Reached:
    """Receives a driver's progress and tells it to whoever watches over the driver."""

    def __init__(self, every_seconds: float = 1.0) -> None:
        self._file = Path(os.environ[REACHED]) if REACHED in os.environ else None
        self._every, self._written = every_seconds, 0.0
        self._stage = ""
        self._most: dict[str, float] = {}

    def start(self, stage: str, total: int, unit: str) -> None:
        self._stage = stage

    def update(self, done: int, **figures: float | str) -> None:
        self._most[self._stage] = max(done, self._most.get(self._stage, 0))
        if time.monotonic() - self._written >= self._every:
            self._write()

    def finish(self) -> None:
        self._most[self._stage] = FINISHED
        self._write()

    def note(self, text: str) -> None: ...

    def _write(self) -> None:
        if self._file is None:
            return
        self._written = time.monotonic()
        staging = self._file.with_suffix(".tmp")
        with contextlib.suppress(OSError):  # a full disk must not end the campaign
            staging.write_text(json.dumps(self._most), "utf-8")
            staging.replace(self._file)


def supervise(command: Sequence[str], retries: int, backoff_seconds: float = 5.0) -> int:
    """Run `command` until it answers, is stopped, or has died more than `retries` times without getting further.

    Its exit code; 128 + the signal for one that was stopped or killed.
    """
    deaths, furthest = 0, dict[str, float]()
    with (
        tempfile.TemporaryDirectory(prefix="vila2-", ignore_cleanup_errors=True) as scratch,
        children_end_with_us(scratch),
        _Watch(Path(scratch, "reached.json")) as watch,
    ):
        while True:
            code = watch.run(command)
            if watch.stopped_by is not None:
                return 0 if code == 0 else 128 + watch.stopped_by
            if code in ANSWERS:
                return code
            now = watch.reached()
            further = any(done > furthest.get(stage, 0) for stage, done in now.items())
            furthest |= {stage: max(done, furthest.get(stage, 0)) for stage, done in now.items()}
            deaths = 1 if further else deaths + 1
            how = killed_by(code) if code < 0 else f"the driver ended with exit code {code}"
            if deaths > retries:
                _say(f"{how}, for the {_ordinal(deaths)} time without getting further; not starting it again")
                return code if code > 0 else 128 - code
            wait = min(60.0, backoff_seconds * 2 ** (deaths - 1))
            _say(f"{how}; starting it again in {wait:.0f} s ({deaths} of {retries} without getting further)")
            watch.pause(wait)
            if watch.stopped_by is not None:
                return 128 + watch.stopped_by


class _Watch:
    """One child at a time, to which signals are handed on."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._child: subprocess.Popen[bytes] | None = None
        self._before: dict[int, Any] = {}
        self.stopped_by: int | None = None

    def __enter__(self) -> _Watch:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves it
                self._before[number] = signal.signal(number, self._hand_on)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def run(self, command: Sequence[str]) -> int:
        environment = {**os.environ, REACHED: str(self._file)}
        self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment)
        if self.stopped_by is not None:  # it came before there was a child to hand it on to
            self._child.send_signal(self.stopped_by)
        code = self._child.wait()
        self._child = None
        return code

    def reached(self) -> dict[str, float]:
        try:
            return json.loads(self._file.read_text("utf-8"))
        except (OSError, ValueError):
            return {}

    def pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self.stopped_by is None and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.2))

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        child, first = self._child, self.stopped_by is None
        self.stopped_by = number
        if child is None:
            return
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(number)
        if first:
            last = threading.Timer(END_SECONDS, child.kill)
            last.daemon = True
            last.start()


def _ordinal(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")


def _say(sentence: str) -> None:
    print(f"vila2: {sentence}", file=sys.stderr, flush=True)
