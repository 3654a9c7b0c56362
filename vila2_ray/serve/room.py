"""How many more replicas a cluster takes as it stands. Pure.

A replica lies on one node whole: half a GPU here and half a GPU there hold none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_ROUNDING = 1e-6
"""Ray counts in ten-thousandths; what is left of 1.0 after ten times 0.1 is a little less than it looks."""
_MANY = 1_000
"""Of replicas that need nothing."""


@dataclass(frozen=True)
class FreeNode:
    """What is left on a node."""

    resources: Mapping[str, float]
    labels: Mapping[str, str]


def num_that_fit(nodes: Iterable[FreeNode], needs: Mapping[str, float], selector: Mapping[str, str]) -> int:
    """How many replicas of these needs find a place on nodes that the selector (as Ray writes it) allows."""
    wanted = {name: need for name, need in needs.items() if need > 0}
    return sum(
        min((math.floor(n.resources.get(name, 0.0) / need + _ROUNDING) for name, need in wanted.items()), default=_MANY)
        for n in nodes
        if all(is_selected(n.labels.get(key), value) for key, value in selector.items())
    )


def is_selected(label: str | None, value: str) -> bool:
    """Whether a node's label (None: it has none) is what a selector asks: `a`, `!a`, `in(a,b)` or `!in(a,b)`."""
    is_not, value = value.startswith("!"), value.removeprefix("!")
    several = re.fullmatch(r"in\((.*)\)", value)
    allowed = [one.strip() for one in several[1].split(",")] if several else [value]
    return (label in allowed) != is_not
