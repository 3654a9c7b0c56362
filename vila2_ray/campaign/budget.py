"""Stops a campaign before it has cost more than its budget. Pure: what is spent is asked of the ledger.

It is a receiver of progress: who tells progress is stopped at that place, where what is finished is kept. What the
nodes cost in `reserve_seconds` is left of the budget then, to save in what is under way. Who tells none (a model that
loads, a node that does not come) is interrupted as by Ctrl-C when half of the reserve is gone.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Protocol

from vila2_ray.errors import BudgetSpent

EVERY_SECONDS = 1.0
"""Progress may be told thousands of times a second; the ledger is asked no more often than this."""


class Spending(Protocol):
    """What a ledger tells."""

    def dollars(self) -> float: ...

    def dollars_per_hour(self) -> float: ...


class Budget:
    """Raises BudgetSpent from `check`, `update` and `enforced`, and from nothing else."""

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

    @contextlib.contextmanager
    def enforced(self) -> Iterator[None]:
        """Around a driver's work, in the main thread: an interruption by the budget comes out as BudgetSpent."""
        if not self._dollars or threading.current_thread() is not threading.main_thread():
            yield
            return
        over, interrupted = threading.Event(), threading.Event()

        def only_ours(*_: object) -> None:
            if interrupted.is_set():
                raise KeyboardInterrupt

        before = signal.getsignal(signal.SIGINT)
        is_ignored = before is signal.SIG_IGN  # as shells leave it in what they start in the background
        if is_ignored:
            signal.signal(signal.SIGINT, only_ours)
        watch = threading.Thread(target=self._watch, args=(over, interrupted), name="budget", daemon=True)
        watch.start()
        try:
            try:
                yield
            finally:
                over.set()
                watch.join()
                if is_ignored:
                    signal.signal(signal.SIGINT, before)
        except KeyboardInterrupt:
            if not interrupted.is_set():
                raise
            raise BudgetSpent(self._ledger.dollars(), self._dollars, self._stage) from None

    def _watch(self, over: threading.Event, interrupted: threading.Event) -> None:
        while not over.wait(EVERY_SECONDS):
            if self._is_spent_but_for(self._reserve_seconds / 2):
                interrupted.set()
                main = threading.main_thread().ident or 0
                signal.pthread_kill(main, signal.SIGINT)  # a real one, for it also wakes who waits for a lock
                return

    def _stop_if_spent(self) -> None:
        now = time.monotonic()
        if not self._dollars or now - self._checked_at < EVERY_SECONDS:
            return
        if self._is_spent_but_for(self._reserve_seconds):
            raise BudgetSpent(self._ledger.dollars(), self._dollars, self._stage)
        self._checked_at = now

    def _is_spent_but_for(self, seconds: float) -> bool:
        """Whether no more is left than what all nodes cost in so long."""
        return self._ledger.dollars() + seconds / 3600 * self._ledger.dollars_per_hour() >= self._dollars
