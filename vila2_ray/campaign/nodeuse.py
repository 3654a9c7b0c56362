"""Integrates what a cluster costs: seconds of nodes by group and market, of their GPUs, and dollars. Pure but for time.

Every node that is up is paid for, busy or idle, the head included. Between two looks the cluster counts as it was at
the first of them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vila2_ray.campaign.clusterfile import Market
from vila2_ray.campaign.pricelist import Node, PriceBook

LOOK_SECONDS = 10.0
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class NodeRow:
    """Nodes of one kind and price over a time."""

    group: str
    market: str
    machine: str
    node_seconds: float
    gpu_seconds: float
    dollars_per_hour: float
    """Of one node."""
    basis: str

    @property
    def dollars(self) -> float:
        return self.node_seconds / 3600 * self.dollars_per_hour


class NodeUse:
    """What the nodes that `look` shows cost from now on. `total` may be asked from any thread."""

    def __init__(
        self, book: PriceBook, look: Callable[[], list[Node]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._book, self._look, self._clock = book, look, clock
        self._lock = threading.Lock()
        self._sums: dict[tuple[str, Market], list[float]] = {}
        self._kinds: list[tuple[tuple[str, Market], float]] = []
        """(group and market, GPUs) of each node that was up at the last look."""
        self._last = clock()
        self.look()
        self._began = self._last = clock()

    def look(self) -> None:
        """Count what has passed, and see which nodes are up now; as before where nobody answers."""
        try:
            kinds = [(self._book.group_of(node), node.gpus) for node in self._look()]
        except Exception as error:  # whatever a cluster that is coming or going raises: nothing that a stage dies of
            _LOG.debug("no nodes could be seen: %s", error)
            return
        with self._lock:
            self._count()
            self._kinds = kinds

    def total(self) -> tuple[float, list[NodeRow]]:
        """Seconds since the beginning, and a row for each group and market; the interval that is not over included."""
        with self._lock:
            self._count()
            seconds, sums = self._last - self._began, {kind: list(pair) for kind, pair in self._sums.items()}
        return seconds, [self._row(kind, *pair) for kind, pair in sorted(sums.items())]

    def dollars_per_hour(self) -> float:
        """Of all nodes that were up at the last look."""
        with self._lock:
            return sum(self._book.price(*kind).dollars_per_hour for kind, _ in self._kinds)

    def _count(self) -> None:
        now = self._clock()
        for kind, gpus in self._kinds:
            pair = self._sums.setdefault(kind, [0.0, 0.0])
            pair[0] += now - self._last
            pair[1] += (now - self._last) * gpus
        self._last = now

    def _row(self, kind: tuple[str, Market], node_seconds: float, gpu_seconds: float) -> NodeRow:
        group, market = kind
        price = self._book.price(group, market)
        machine = self._book.machine_name(group)
        return NodeRow(group, market, machine, node_seconds, gpu_seconds, price.dollars_per_hour, price.basis)


def nodes_up() -> list[Node]:
    """The nodes of the cluster that this process is connected to; without Ray, this machine."""
    import sys

    ray: Any = sys.modules.get("ray")  # a process that has not imported it is not connected
    if ray is None or not ray.is_initialized():
        return [Node("here")]
    return [
        Node(
            node["NodeID"],
            float(node["Resources"].get("CPU", 0.0)),
            float(node["Resources"].get("GPU", 0.0)),
            dict(node.get("Labels") or {}),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
