"""How far a stage is: said by whoever does the work, shown by whoever started it."""

from __future__ import annotations

import sys
import time
from typing import Protocol, TextIO

MARK = "▸"
"""First character of a progress line, so that a follower of the log can redraw it in place."""
MEASURED = frozenset(
    {"images", "captions", "output_tokens", "dead_letters", "ranges_left"}
    | {"data_wait_share", "tokens_per_second", "samples_per_second"}
)
"""Figures for meters (`metrics.TOLD`) that a line for people leaves out."""


class Progress(Protocol):
    """Receives the course of one stage after the other."""

    def start(self, stage: str, total: int, unit: str) -> None:
        """A stage begins; `total` counts `unit`s, 0 when unknown."""

    def update(self, done: int, **figures: float | str) -> None:
        """`done` units of the running stage are finished, this run's and earlier ones'.

        `figures`: what else is known by now, by name; what one counts by reason is `<name>.<reason>`.
        """

    def finish(self) -> None:
        """The running stage is over."""

    def note(self, text: str) -> None:
        """A sentence for the log."""


class NullProgress:
    """Says nothing."""

    def start(self, stage: str, total: int, unit: str) -> None: ...

    def update(self, done: int, **figures: float | str) -> None: ...

    def finish(self) -> None: ...

    def note(self, text: str) -> None: ...


class Several:
    """Hands everything to each of its receivers, in order; what one raises is the caller's."""

    def __init__(self, *receivers: Progress) -> None:
        self._receivers = receivers

    def start(self, stage: str, total: int, unit: str) -> None:
        for receiver in self._receivers:
            receiver.start(stage, total, unit)

    def update(self, done: int, **figures: float | str) -> None:
        for receiver in self._receivers:
            receiver.update(done, **figures)

    def finish(self) -> None:
        for receiver in self._receivers:
            receiver.finish()

    def note(self, text: str) -> None:
        for receiver in self._receivers:
            receiver.note(text)


class LineProgress:
    """One line at most every `every_seconds`: stage, done/total, rate and time left."""

    def __init__(self, stream: TextIO | None = None, every_seconds: float = 2.0) -> None:
        self._stream, self._every = stream or sys.stdout, every_seconds
        self._stage, self._total, self._unit = "", 0, ""
        self._began = self._shown = 0.0
        self._first: int | None = None

    def start(self, stage: str, total: int, unit: str) -> None:
        self._stage, self._total, self._unit, self._first = stage, total, unit, None
        self._began, self._shown = time.monotonic(), 0.0

    def update(self, done: int, **figures: float | str) -> None:
        now = time.monotonic()
        if self._first is None:  # what an earlier run left done says nothing about this run's rate
            self._first, self._began = done, now
        if now - self._shown < self._every and done < self._total:
            return
        self._shown = now
        rate = (done - self._first) / (now - self._began) if now > self._began else 0.0
        share = (
            f"{done:,}/{self._total:,} {self._unit} {done / self._total:4.0%}"
            if self._total
            else f"{done:,} {self._unit}"
        )
        left = f"{_clock((self._total - done) / rate)} left" if rate and done < self._total else ""
        more = "  ".join(
            f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in figures.items()
            if name.partition(".")[0] not in MEASURED
        )
        self._say(f"{MARK} {self._stage:<12} {share}  {rate:,.{1 if rate < 10 else 0}f}/s  {left}  {more}".rstrip())

    def finish(self) -> None:
        self._stage = ""

    def note(self, text: str) -> None:
        self._say(text)

    def _say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
