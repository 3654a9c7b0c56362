"""Node seconds become dollars: which group a node is of, what it costs, and that every second is counted once."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from vila2_ray.campaign import ledger as ledgers
from vila2_ray.campaign.budget import Budget
from vila2_ray.campaign.clusterfile import NodeGroup
from vila2_ray.campaign.ledger import Entry, Ledger, Spent, read_ledger
from vila2_ray.campaign.nodeuse import NodeUse, nodes_up
from vila2_ray.campaign.pricelist import Machine, Node, PriceBook
from vila2_ray.config import PricesConfig
from vila2_ray.errors import BudgetSpent
from vila2_ray.storage import Store

GROUPS = (
    NodeGroup("head", "small", is_head=True),
    NodeGroup("cpu", "small", cpus=16, at_most=4),
    NodeGroup("captions", "one-gpu", "spot", 8, 1, at_most=4, labels={"ray-subcluster": "captions"}),
)
MACHINES = {"small": Machine(on_demand=0.36, spot=0.1), "one-gpu": Machine(on_demand=7.2, spot=3.6, gpus=1)}
BOOK = PriceBook(PricesConfig(node_dollars_per_hour=1.0), GROUPS, MACHINES)
HEAD, CPU = Node("h"), Node("c", cpus=16)
CAPTIONS = Node("g", cpus=8, gpus=1, labels={"ray-subcluster": "captions", "ray.io/accelerator-type": "L40S"})


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_node_is_of_the_group_that_its_label_names_or_that_it_fits() -> None:
    named = Node("x", 3, 5, {"ray.io/node-group": "cpu", "ray.io/market-type": "spot"})
    assert [BOOK.group_of(node) for node in (HEAD, CPU, CAPTIONS, named, Node("y", 5))] == [
        ("head", "on_demand"),
        ("cpu", "on_demand"),
        ("captions", "spot"),
        ("cpu", "spot"),
        ("node", "on_demand"),
    ]


def test_an_hour_costs_what_the_configuration_or_the_list_says() -> None:
    assert BOOK.price("captions", "spot").dollars_per_hour == 3.6
    assert BOOK.price("captions", "on_demand").dollars_per_hour == 7.2
    assert BOOK.price("node", "on_demand").dollars_per_hour == 1.0
    assert "no on demand price of node" in BOOK.price("node", "on_demand").basis
    own = PriceBook(PricesConfig(nodes={"captions": 2.0}, machines={"other": "small"}), GROUPS, MACHINES)
    assert own.price("captions", "spot").dollars_per_hour == 2.0
    assert own.price("other", "spot").dollars_per_hour == 0.1


def test_nodes_are_counted_from_look_to_look_and_the_last_interval_as_well() -> None:
    clock, up = Clock(), [HEAD]
    use = NodeUse(BOOK, lambda: list(up), clock)
    clock.now += 10
    up += [CAPTIONS, CAPTIONS]
    use.look()
    assert use.dollars_per_hour() == pytest.approx(0.36 + 2 * 3.6)
    clock.now += 100
    up.pop()
    use.look()
    clock.now += 7
    rows = {row.group: row for row in use.total()[1]}
    assert rows["head"].node_seconds == pytest.approx(117)
    assert rows["captions"].node_seconds == pytest.approx(2 * 100 + 7)
    assert rows["captions"].gpu_seconds == pytest.approx(207)
    assert rows["captions"].dollars == pytest.approx(207 / 1000)
    assert (rows["captions"].machine, rows["captions"].market) == ("one-gpu", "spot")


def test_a_cluster_that_does_not_answer_counts_as_it_was() -> None:
    clock, answers = Clock(), [[CPU]]

    def look() -> list[Node]:
        if not answers:
            raise ConnectionError("the head is gone")
        return answers.pop()

    use = NodeUse(BOOK, look, clock)
    clock.now += 5
    use.look()
    clock.now += 5
    assert [row.node_seconds for row in use.total()[1]] == [pytest.approx(10)]


def test_without_ray_this_machine_is_paid_for() -> None:
    assert [node.node_id for node in nodes_up()] == ["here"]


def test_the_stage_under_way_is_told_and_is_on_file_before_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledgers, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(ledgers, "WRITE_SECONDS", 0.0)
    store, looked = Store(tmp_path), threading.Event()
    old = {"attempt": "1-a", "stage": "align", "started_at": 1.0, "seconds": 50.0, "dollars": 2.0, "finished": True}
    store.write_text("ledger/1-a.jsonl", json.dumps(old) + "\n")

    def look() -> list[Node]:
        if read_ledger(store)[-1].stage == "recaption-1":
            looked.set()
        return [CAPTIONS]

    ledger = Ledger(store, BOOK, look)
    assert (ledger.running(), ledger.dollars_per_hour()) == (None, 0.0)
    with ledger.record("recaption-1") as figures:
        figures["num_samples"] = 3
        assert looked.wait(60)
        unfinished = read_ledger(store)[-1]
        assert not unfinished.finished
        assert unfinished.dollars > 0
        running = ledger.running()
        assert running is not None
        assert running.gpu_seconds >= unfinished.gpu_seconds > 0
        assert ledger.spent()["align"] == Spent(50.0, 0.0, 2.0)
        assert ledger.spent()["recaption-1"].dollars >= running.dollars
        assert ledger.dollars_per_hour() == 3.6
    [first, last] = read_ledger(store)
    assert first == Entry(**old)
    assert (last.finished, last.figures, ledger.running()) == (True, {"num_samples": 3}, None)
    assert last.dollars == pytest.approx(last.seconds / 1000)
    assert ledger.dollars() == pytest.approx(2.0 + last.dollars)


class Spends:
    def __init__(self, dollars: float, dollars_per_hour: float = 0.0) -> None:
        self.spent, self.per_hour = dollars, dollars_per_hour

    def dollars(self) -> float:
        return self.spent

    def dollars_per_hour(self) -> float:
        return self.per_hour


def test_a_budget_stops_before_a_stage_and_within_it_with_the_reserve_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vila2_ray.campaign.budget.EVERY_SECONDS", 0.0)
    spends = Spends(3.0, 36.0)
    budget = Budget(5.0, 100.0, spends)
    budget.check("sft-0")
    budget.update(1, loss=0.5)
    spends.spent = 4.0
    with pytest.raises(BudgetSpent, match=r"sft-0: \$4.00 of budget=5 dollars .* raise budget=") as stopped:
        budget.update(2)
    assert (stopped.value.spent_dollars, stopped.value.budget_dollars) == (4.0, 5.0)
    with pytest.raises(BudgetSpent, match="evaluate-0"):
        Budget(5.0, 0.0, Spends(5.0)).check("evaluate-0")


def test_no_budget_is_no_bound() -> None:
    Budget(0.0, 100.0, Spends(1e9)).check("align")
