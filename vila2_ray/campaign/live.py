"""`live.json`: what a driver is doing now, for whoever watches from elsewhere. Operational: nothing depends on it.

It is written anew every few seconds and at the borders of stages, and says at its end how the driver ended. One that
stands still belongs to a driver that died.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from vila2_ray.storage import Store

NAME = "live.json"
EVERY_SECONDS = 10.0


@dataclass
class Live:
    """A driver and its stage at one moment."""

    host: str
    pid: int
    started_at: float
    """Unix time, as all times here."""
    beat: int = 0
    """Grows with every writing."""
    written_at: float = 0.0
    ended: str = ""
    """How the driver ended: done | stopped (by its budget) | failed | interrupted. Empty while it lives."""
    why: str = ""
    """A sentence, unless it is done."""
    stage: str = ""
    """Empty between stages."""
    stage_started_at: float = 0.0
    step: str = ""
    """What the stage counts now: it may count several things one after the other."""
    unit: str = ""
    done: int = 0
    total: int = 0
    """0: not known."""
    rate: float = 0.0
    """Units a second, lately."""
    figures: dict[str, float] = field(default_factory=dict)
    """What the stage has told last, by the names of `metrics.TOLD`."""
    spent: dict[str, dict[str, float]] = field(default_factory=dict)
    """Stage → seconds, gpu_seconds, dollars; all attempts."""
    dead_letters: dict[str, int] = field(default_factory=dict)
    """Reason → rows, in the stage under way since its driver began."""
    note: str = ""
    """The last sentence for the log."""

    @property
    def seconds_left(self) -> float | None:
        """Of what the stage counts now; None where it cannot be said."""
        return (self.total - self.done) / self.rate if self.rate > 0 and self.total else None

    @property
    def dollars(self) -> float:
        return sum(spent.get("dollars", 0.0) for spent in self.spent.values())


def write_live(store: Store, live: Live) -> None:
    """Raises StorageError."""
    store.write_text(NAME, json.dumps(asdict(live), indent=1, ensure_ascii=False))


def read_live(store: Store) -> Live | None:
    """None where no driver has ever told. What a later version tells beside this is left out."""
    if not store.exists(NAME):
        return None
    told: dict[str, Any] = json.loads(store.read_text(NAME))
    known = {entry.name for entry in fields(Live)}
    return Live(**{name: value for name, value in told.items() if name in known})
