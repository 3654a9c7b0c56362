"""Our metrics on Ray's agents, where Prometheus finds them. Without a cluster it does nothing, and it never raises."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import Any

from vila2_ray.campaign.meter import Value
from vila2_ray.metrics import Metric

EVERY_SECONDS = 5.0
"""Ray's agents forget a gauge that was not set anew for twice their reporting interval, 20 s unless configured."""


class Exposed:
    """Hands values to Ray; counters by what they have grown since they were handed over last."""

    def __init__(self, campaign: str) -> None:
        self._campaign = campaign
        self._made: dict[Metric, Any] = {}
        self._handed: dict[tuple[Metric, tuple[str, ...]], float] = {}
        self._has_warned = False

    def show(self, values: Iterable[Value]) -> None:
        """Set every gauge, and what counters have grown by."""
        ray = sys.modules.get("ray")
        if ray is None or not ray.is_initialized():
            return
        try:
            for metric, labels, value in values:
                self._one(metric, labels, value)
        except Exception as error:  # a campaign does not fail because it cannot be watched
            if not self._has_warned:
                logging.getLogger(__name__).warning("metrics cannot be shown: %s", type(error).__name__)
            self._has_warned = True

    def _one(self, metric: Metric, labels: tuple[str, ...], value: float) -> None:
        values = (_in_ascii(label) for label in (self._campaign, *labels))
        tags = dict(zip(metric.labels, values, strict=True))
        made = self._made.get(metric) or self._make(metric)
        if metric.kind == "gauge":
            made.set(value, tags)
            return
        grown = value - self._handed.get((metric, labels), 0.0)
        if grown > 0:
            made.inc(grown, tags)
            self._handed[metric, labels] = value

    def _make(self, metric: Metric) -> Any:
        from ray.util.metrics import Counter, Gauge

        kind = Counter if metric.kind == "counter" else Gauge
        self._made[metric] = made = kind(metric.recorded, f"{metric.told} [{metric.unit}]", metric.labels)
        return made


def _in_ascii(label: str) -> str:
    """Ray takes no other labels; a campaign's folder may have any name."""
    return label.encode("ascii", "backslashreplace").decode()
