"""What a campaign cost: one append-only file per attempt, one line per stage that ran, summed by whoever reads.

While a stage runs, a thread looks which nodes are up (campaign/nodeuse.py) and writes the stage's line again now and
then, unfinished, so that an attempt that is killed has told what it cost but for the last minute.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from vila2_ray.campaign.nodeuse import LOOK_SECONDS, NodeUse, nodes_up
from vila2_ray.campaign.pricelist import Node, PriceBook
from vila2_ray.config import PricesConfig
from vila2_ray.errors import Vila2Error
from vila2_ray.storage import Store

WRITE_SECONDS = 60.0
CHARGED = "charged_dollars"
"""Figure of an entry: what somebody else's endpoint took; part of its dollars beside those of nodes."""
JUDGING = "judge-"
"""Begins the name of an entry that is no stage of the campaign: a model's votes on a study."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """One run of one stage, finished or not."""

    attempt: str
    stage: str
    started_at: float
    """Unix time."""
    seconds: float
    dollars: float
    """Of all nodes that were up, and what others charged (`CHARGED`)."""
    finished: bool
    figures: dict[str, Any] = field(default_factory=dict)
    gpu_seconds: float = 0.0
    nodes: list[dict[str, Any]] = field(default_factory=list)
    """A row for each kind of node that was up: `NodeRow` as a dict, and its `dollars`."""


@dataclass(frozen=True)
class Spent:
    """What a stage cost, all attempts together."""

    seconds: float = 0.0
    gpu_seconds: float = 0.0
    dollars: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.seconds + other.seconds, self.gpu_seconds + other.gpu_seconds, self.dollars + other.dollars)


@dataclass
class _Running:
    stage: str
    started_at: float
    use: NodeUse
    figures: dict[str, Any]


class Ledger:
    """Writes this attempt's file and reads everybody's. May be asked from any thread."""

    def __init__(
        self,
        store: Store,
        prices: PriceBook | PricesConfig,
        look: Callable[[], list[Node]] = nodes_up,
        write_seconds: float | None = None,
    ) -> None:
        """`write_seconds`: what a kill can keep out of it at most; None: WRITE_SECONDS."""
        self._write_seconds = WRITE_SECONDS if write_seconds is None else write_seconds
        self._whole, self._store = store, store.sub("ledger")
        self._book = PriceBook(prices) if isinstance(prices, PricesConfig) else prices
        self._look = look
        self._attempt = f"{int(time.time())}-{uuid.uuid4().hex[:6]}"
        self._entries: list[Entry] = []
        self._running: _Running | None = None
        self._others: dict[str, Spent] = {}
        self._others_read_at = float("-inf")
        self._lock = threading.Lock()

    @contextmanager
    def record(self, stage: str) -> Iterator[dict[str, Any]]:
        """Times a stage; what the caller puts into the yielded dict are the entry's figures. Failed runs cost too."""
        running = _Running(stage, time.time(), NodeUse(self._book, self._look), {})
        with self._lock:
            self._running = running
        over, finished = threading.Event(), False
        watcher = threading.Thread(target=self._watch, args=(running, over), name="ledger", daemon=True)
        watcher.start()
        try:
            yield running.figures
            finished = True
        finally:
            over.set()
            watcher.join()
            with self._lock:
                self._entries.append(self._entry(running, finished))
                self._running = None
            self._write()

    def running(self) -> Entry | None:
        """The stage under way, as if it ended now; None where none is."""
        with self._lock:
            return None if self._running is None else self._entry(self._running, False)

    def spent(self) -> dict[str, Spent]:
        """Stage → what it cost so far: all attempts, and the stage under way."""
        if time.monotonic() - self._others_read_at >= WRITE_SECONDS:  # a judge may spend beside a driver
            self._others = spent_by_stage(e for e in read_ledger(self._whole) if e.attempt != self._attempt)
            self._others_read_at = time.monotonic()
        with self._lock:
            now = [*self._entries, *([self._entry(self._running, False)] if self._running else [])]
        found = dict(self._others)
        for stage, spent in spent_by_stage(now).items():
            found[stage] = found.get(stage, Spent()) + spent
        return found

    def dollars(self) -> float:
        """All that the campaign cost so far."""
        return sum(spent.dollars for spent in self.spent().values())

    def dollars_per_hour(self) -> float:
        """Of all nodes that are up; 0 while no stage runs."""
        running = self._running
        return running.use.dollars_per_hour() if running else 0.0

    def _entry(self, running: _Running, finished: bool) -> Entry:
        seconds, rows = running.use.total()
        figures = dict(running.figures)
        return Entry(
            attempt=self._attempt,
            stage=running.stage,
            started_at=running.started_at,
            seconds=seconds,
            dollars=sum(row.dollars for row in rows) + float(figures.get(CHARGED) or 0.0),
            finished=finished,
            figures=figures,
            gpu_seconds=sum(row.gpu_seconds for row in rows),
            nodes=[{**asdict(row), "dollars": row.dollars} for row in rows],
        )

    def _watch(self, running: _Running, over: threading.Event) -> None:
        written = time.monotonic()
        while not over.wait(LOOK_SECONDS):
            running.use.look()
            if time.monotonic() - written >= self._write_seconds:
                written = time.monotonic()
                try:
                    self._write()
                except (OSError, Vila2Error) as error:  # the stage's last word counts
                    _LOG.debug("the ledger could not be written: %s", error)

    def _write(self) -> None:
        """The attempt's own file, whole: object stores cannot append."""
        with self._lock:
            entries = [*self._entries, *([self._entry(self._running, False)] if self._running else [])]
        lines = "".join(json.dumps(asdict(entry)) + "\n" for entry in entries)
        self._store.write_text(f"{self._attempt}.jsonl", lines)


def read_ledger(store: Store) -> list[Entry]:
    """All attempts' entries, oldest first."""
    folder = store.sub("ledger")
    lines = (line for name in folder.list(suffix=".jsonl") for line in folder.read_text(name).splitlines())
    return sorted((Entry(**json.loads(line)) for line in lines), key=lambda entry: entry.started_at)


def spent_by_stage(entries: Iterable[Entry]) -> dict[str, Spent]:
    """Stage → sum of its entries, in order of first running."""
    found: dict[str, Spent] = {}
    for entry in entries:
        cost = Spent(entry.seconds, entry.gpu_seconds, entry.dollars)
        found[entry.stage] = found.get(entry.stage, Spent()) + cost
    return found
