"""A driver that can be seen: its metrics on the cluster, `live.json` in its campaign, its records with their campaign.

A thread shows every few seconds what the meter has heard, so that neither a slow store nor a busy cluster holds the
driver up; what cannot be written is written at the next beat.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from types import TracebackType
from typing import Any, Protocol

from vila2_ray import metrics
from vila2_ray.campaign.exposed import EVERY_SECONDS as EXPOSED_EVERY_SECONDS
from vila2_ray.campaign.exposed import Exposed
from vila2_ray.campaign.live import EVERY_SECONDS, write_live
from vila2_ray.campaign.meter import Meter, Value
from vila2_ray.campaign.state import Marker
from vila2_ray.errors import BudgetSpent, Vila2Error
from vila2_ray.logs import tell, telling_of
from vila2_ray.storage import Store

_END_SECONDS = 20.0
"""So long a driver's end waits for its last beat to be written."""


class Spends(Protocol):
    """The ledger, as far as it is looked at here."""

    def spent(self) -> Mapping[str, Any]:
        """Stage → what it took so far: `seconds`, `gpu_seconds`, `dollars`."""


class Pulse:
    """A context manager around a driver's work; `meter` hears of it."""

    def __init__(
        self, store: Store, ledger: Spends, markers: Mapping[str, Marker], every_seconds: float = EVERY_SECONDS
    ) -> None:
        """`markers`: what was finished before."""
        self._store, self._ledger, self._every = store, ledger, every_seconds
        name = metrics.campaign_name(store.uri)
        self._campaign, self._exposed = name, Exposed(name)
        self._wanted, self._stop = threading.Event(), threading.Event()
        self.meter = Meter(name, on_border=self._wanted.set)
        for stage, marker in markers.items():
            self.meter.finished(stage, marker.summary)
        self._beat = 0
        self._ended, self._why = "", ""
        self._thread = threading.Thread(target=self._work, name="pulse", daemon=True)

    def __enter__(self) -> Pulse:
        with telling_of(campaign=self._campaign):
            tell("driver begins")
        self._wanted.set()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            how = "stopped" if issubclass(kind, BudgetSpent) else "failed"
            self._ended = how if issubclass(kind, Exception) else "interrupted"
            self._why = str(value)[:1000] if isinstance(value, Vila2Error) else kind.__name__
        else:
            self._ended = "done"
        with telling_of(campaign=self._campaign):
            tell("driver ends", how=self._ended)
        self._stop.set()
        self._wanted.set()
        self._thread.join(_END_SECONDS)

    def _work(self) -> None:
        written = 0.0
        while not self._stop.is_set():
            at_border = self._wanted.wait(min(EXPOSED_EVERY_SECONDS, self._every))
            self._wanted.clear()
            if not self._stop.is_set():
                is_due = at_border or time.monotonic() - written >= self._every
                self._show(is_due)
                written = time.monotonic() if is_due else written
        self._show(True)

    def _show(self, writes: bool) -> None:
        with contextlib.suppress(Exception):  # no campaign fails for want of being seen; the next beat tries again
            spent = {stage: _as_dict(took) for stage, took in self._ledger.spent().items()}
            self._exposed.show([*self.meter.values(), *_spent_values(spent)])
            if writes:
                self._beat += 1
                live = self.meter.live()
                live.beat, live.written_at, live.spent = self._beat, time.time(), spent
                live.ended, live.why = self._ended, self._why
                write_live(self._store, live)


def _as_dict(spent: Any) -> dict[str, float]:
    names = ("seconds", "gpu_seconds", "dollars")
    told = asdict(spent) if not isinstance(spent, Mapping) else spent
    return {name: round(float(told[name]), 6) for name in names}


def _spent_values(spent: Mapping[str, Mapping[str, float]]) -> list[Value]:
    shown = {
        "seconds": metrics.STAGE_SECONDS,
        "gpu_seconds": metrics.STAGE_GPU_SECONDS,
        "dollars": metrics.STAGE_DOLLARS,
    }
    return [
        Value(metric, (stage,), of_stage[name]) for stage, of_stage in spent.items() for name, metric in shown.items()
    ]
