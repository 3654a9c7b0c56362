"""Stops a campaign before it has cost more than its budget. Pure: what is spent is asked of the ledger.

It is a receiver of progress: who tells progress is stopped at that place, where what is finished is kept. What the
nodes cost in `reserve_seconds` is left of the budget then, to save in what is under way.
"""

from __future__ import annotations

import time
from typing import Protocol

from vila2_ray.errors import BudgetSpent

EVERY_SECONDS = 1.0
"""Progress may be told thousands of times a second; the ledger is asked no more often than this."""


class Spending(Protocol):
    """What a ledger tells."""

    def dollars(self) -> float: ...

    def dollars_per_hour(self) -> float: ...


class Budget:
    """Raises BudgetSpent from `check` and `update`, and from nothing else."""

    def __init__(self, dollars: float, reserve_seconds: float, ledger: Spending) -> None:
        """`dollars` 0: no bound."""
        self._dollars, self._reserve_seconds, self._ledger = dollars, reserve_seconds, ledger
        self._stage, self._checked_at = "", -EVERY_SECONDS

    def check(self, stage: str) -> None:
        """Before a stage begins."""
        self._stage, self._checked_at = stage, -EVERY_SECONDS
        self._stop_if_spent()

    def start(self, stage: str, total: int, unit: str) -> None: ...

    def update(self, done: int, **figures: float | str) -> None:
        self._stop_if_spent()

    def finish(self) -> None: ...

    def note(self, text: str) -> None: ...

    def _stop_if_spent(self) -> None:
        now = time.monotonic()
        if not self._dollars or now - self._checked_at < EVERY_SECONDS:
            return
        spent = self._ledger.dollars()
        if spent + self._reserve_seconds / 3600 * self._ledger.dollars_per_hour() >= self._dollars:
            raise BudgetSpent(spent, self._dollars, self._stage)
        self._checked_at = now
