"""Listens to a driver's progress and keeps what can be measured of it: the stage, how far it is, how fast, its figures.

Listening costs microseconds and never raises; showing what was heard is the business of `pulse`.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

from vila2_ray import metrics
from vila2_ray.campaign.live import Live
from vila2_ray.logs import tell, telling_of
from vila2_ray.metrics import Metric

_RATE_SECONDS = 60.0
"""The rate is that of so many last seconds."""


class Value(NamedTuple):
    """One metric with its labels' values, in the order of `Metric.labels` after the campaign."""

    metric: Metric
    labels: tuple[str, ...]
    value: float


class Meter:
    """A `Progress` that remembers. Safe for threads."""

    def __init__(self, campaign: str, on_border: Callable[[], None] = lambda: None) -> None:
        """`campaign` as labels name it; `on_border` is called when a stage begins or ends."""
        self._campaign, self._on_border = campaign, on_border
        self._lock = threading.Lock()
        self._live = Live(socket.gethostname(), os.getpid(), time.time())
        self._seen: deque[tuple[float, int]] = deque()
        self._counted: dict[tuple[Metric, tuple[str, ...]], float] = {}
        """Counters over the driver's life."""
        self._begun: dict[tuple[Metric, str], float] = {}
        """The same, as the step under way has told them: each recaptioning counts from 0."""
        self._kept: dict[tuple[Metric, tuple[str, ...]], float] = {}
        """Gauges that stay as they are: what filters found."""

    # --- what stages are -----------------------------------------------------------------------------------------

    @contextmanager
    def stage(self, name: str, figures: Mapping[str, Any]) -> Iterator[None]:
        """A stage from its beginning to its end; `figures` is its summary, filled in when it ends well."""
        with telling_of(campaign=self._campaign, stage=name):
            began = time.monotonic()
            tell("stage begins")
            with self._lock:
                self._clear(stage=name, stage_started_at=time.time())
            self._on_border()
            try:
                yield
            except BaseException as error:
                tell("stage failed", seconds=round(time.monotonic() - began, 1), error=type(error).__name__)
                raise
            else:
                tell("stage ends", seconds=round(time.monotonic() - began, 1), **_plain(figures))
                with self._lock:
                    self._clear()
                    self._judged(name, figures)
                self._on_border()

    def finished(self, name: str, figures: Mapping[str, Any]) -> None:
        """A stage that an earlier driver has finished: what its filters found is still true."""
        with self._lock:
            self._judged(name, figures)

    # --- Progress ------------------------------------------------------------------------------------------------

    def start(self, stage: str, total: int, unit: str) -> None:
        with self._lock:
            live = self._live
            self._live = replace(live, step=stage, unit=unit, done=0, total=total, rate=0.0, figures={})
            self._seen.clear()
            self._begun.clear()

    def update(self, done: int, **figures: float | str) -> None:
        now = time.monotonic()
        with self._lock:
            self._live.done = done
            if not self._seen or now - self._seen[-1][0] >= 1.0:
                self._seen.append((now, done))
                while now - self._seen[0][0] > _RATE_SECONDS and len(self._seen) > 2:
                    self._seen.popleft()
            for metric, label, value in metrics.measured(figures):
                if metric.kind == "counter":
                    self._count(metric, label, value)
                if not label:
                    self._live.figures[metric.figure] = value

    def finish(self) -> None:
        with self._lock:
            self._live.figures, self._live.rate = {}, 0.0

    def note(self, text: str) -> None:
        with self._lock:
            self._live.note = text
        tell("note", text=text)

    # --- what was heard ------------------------------------------------------------------------------------------

    def live(self) -> Live:
        """A copy of what is going on."""
        with self._lock:
            self._live.rate = self._rate()
            dead = {
                labels[1]: int(value)
                for (metric, labels), value in self._counted.items()
                if metric.figure == "dead_letters" and labels[0] == self._live.stage
            }
            return replace(self._live, figures=dict(self._live.figures), dead_letters=dead)

    def values(self) -> list[Value]:
        """Every metric as it stands, but for what was spent."""
        with self._lock:
            live = self._live
            values = [Value(metric, labels, value) for (metric, labels), value in self._counted.items()]
            values += [Value(metric, labels, value) for (metric, labels), value in self._kept.items()]
            if live.stage:
                values.append(Value(metrics.STAGE_RUNNING, (live.stage,), 1.0))
                if live.unit:
                    values.append(Value(metrics.STAGE_DONE, (live.stage, live.unit), float(live.done)))
                    values.append(Value(metrics.STAGE_TOTAL, (live.stage, live.unit), float(live.total)))
                told = {metric.figure: metric for metric in metrics.TOLD if metric.kind == "gauge"}
                values += [Value(told[name], (live.stage,), v) for name, v in live.figures.items() if name in told]
            return values

    def _rate(self) -> float:
        """Units a second over the last minute; what an earlier run left done is in no difference."""
        if not self._seen:
            return 0.0
        first, before = self._seen[0]
        seconds = time.monotonic() - first
        return max(0.0, (self._live.done - before) / seconds) if seconds > 0 else 0.0

    def _count(self, metric: Metric, label: str, value: float) -> None:
        before = self._begun.get((metric, label), 0.0)
        self._begun[metric, label] = value
        labels = (self._live.stage, label) if label else (self._live.stage,)
        self._counted[metric, labels] = self._counted.get((metric, labels), 0.0) + max(0.0, value - before)

    def _judged(self, name: str, figures: Mapping[str, Any]) -> None:
        flags = figures.get("flags")
        if not (name.startswith("filter-") and isinstance(flags, Mapping)):
            return
        for key, count in flags.items():
            if key == "captions":
                self._kept[metrics.CAPTIONS_JUDGED, (name,)] = float(count)
            elif key == "kept":
                self._kept[metrics.CAPTIONS_KEPT, (name,)] = float(count)
            elif key not in ("samples", "alt_text"):
                self._kept[metrics.CAPTIONS_FLAGGED, (name, key)] = float(count)

    def _clear(self, **given: Any) -> None:
        live = self._live
        self._live = Live(live.host, live.pid, live.started_at, note=live.note, **given)
        self._seen.clear()
        self._begun.clear()


def _plain(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers and names of a stage's summary that a record may carry, under one key."""
    plain = {k: v for k, v in figures.items() if isinstance(v, (int, float)) or k in ("model", "engine", "digest")}
    return {"figures": plain} if plain else {}
