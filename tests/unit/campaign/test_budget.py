"""A driver that tells no progress is interrupted before its budget is gone."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from vila2_ray.campaign import budget as budgets
from vila2_ray.campaign.budget import Budget
from vila2_ray.errors import BudgetSpent

PATIENCE_SECONDS = 60.0


class Spending:
    """A dollar a second is left of nothing."""

    def __init__(self, dollars: float) -> None:
        self.spent = dollars

    def dollars(self) -> float:
        return self.spent

    def dollars_per_hour(self) -> float:
        return 3600.0


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "EVERY_SECONDS", 0.01)


def silently(until: float) -> None:
    while time.monotonic() < until:
        time.sleep(0.01)


def test_silence_is_interrupted_when_half_of_the_reserve_is_gone() -> None:
    spending = Spending(89.0)  # half of the reserve of 20 s is $10
    budget = Budget(100.0, 20.0, spending)
    threading.Timer(0.1, lambda: setattr(spending, "spent", 90.0)).start()
    with pytest.raises(BudgetSpent, match=r"\$90\.00 of budget=100"), budget.enforced():
        silently(time.monotonic() + PATIENCE_SECONDS)


def test_who_waits_for_a_lock_is_woken_and_an_ignored_ctrl_c_comes_back_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(BudgetSpent), Budget(100.0, 20.0, Spending(95.0)).enforced():
            threading.Event().wait()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_ends_in_time_and_ctrl_c_are_left_alone() -> None:
    with Budget(100.0, 20.0, Spending(0.0)).enforced():
        silently(time.monotonic() + 0.05)
    with pytest.raises(KeyboardInterrupt), Budget(100.0, 20.0, Spending(0.0)).enforced():
        raise KeyboardInterrupt


def test_without_a_bound_or_outside_of_the_main_thread_nothing_watches() -> None:
    with Budget(0.0, 20.0, Spending(1e9)).enforced():
        assert "budget" not in {thread.name for thread in threading.enumerate()}
    seen: list[set[str]] = []

    def elsewhere() -> None:
        with Budget(100.0, 20.0, Spending(0.0)).enforced():
            seen.append({thread.name for thread in threading.enumerate()})

    thread = threading.Thread(target=elsewhere, name="elsewhere")
    thread.start()
    thread.join()
    assert "budget" not in seen[0]
