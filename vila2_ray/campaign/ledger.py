"""What a campaign cost: one append-only file per attempt, one line per stage that ran, summed by whoever reads."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from vila2_ray.config import PricesConfig
from vila2_ray.storage import Store


@dataclass(frozen=True)
class Entry:
    """One run of one stage, finished or not."""

    attempt: str
    stage: str
    started_at: float
    """Unix time."""
    seconds: float
    dollars: float
    finished: bool
    figures: dict[str, Any] = field(default_factory=dict)


class Ledger:
    """Writes this attempt's file and reads everybody's."""

    def __init__(self, store: Store, prices: PricesConfig) -> None:
        self._store, self._prices = store.sub("ledger"), prices
        self._attempt = f"{int(time.time())}-{uuid.uuid4().hex[:6]}"
        self._entries: list[Entry] = []

    @contextmanager
    def record(self, stage: str) -> Iterator[dict[str, Any]]:
        """Times a stage; what the caller puts into the yielded dict are the entry's figures. Failed runs cost too."""
        figures: dict[str, Any] = {}
        started, clock, finished = time.time(), time.monotonic(), False
        try:
            yield figures
            finished = True
        finally:
            seconds = time.monotonic() - clock
            dollars = seconds / 3600 * self._prices.node_dollars_per_hour
            self._entries.append(Entry(self._attempt, stage, started, seconds, dollars, finished, figures))
            lines = "".join(json.dumps(asdict(entry)) + "\n" for entry in self._entries)
            self._store.write_text(
                f"{self._attempt}.jsonl", lines
            )  # own file, rewritten whole: object stores cannot append


def read_ledger(store: Store) -> list[Entry]:
    """All attempts' entries, oldest first."""
    folder = store.sub("ledger")
    lines = (line for name in folder.list(suffix=".jsonl") for line in folder.read_text(name).splitlines())
    return sorted((Entry(**json.loads(line)) for line in lines), key=lambda entry: entry.started_at)
