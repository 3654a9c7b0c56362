"""Nodes that start on a machine that is full: without the agent that reports to a dashboard, and with time to do so.

A raylet of Ray 2.60 ends when its agents have not started in 15 seconds, and a node is given up after 30, which cannot
be set. `python -m tests.ray.lean_nodes start …` is `ray start …` and LeanProvider Ray's fake node provider, with both.
"""

from __future__ import annotations

import time
from typing import Any

from ray._private import services, utils
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider

PATIENCE_SECONDS = 90.0

_get_node = services.get_node


def start_lean_nodes() -> None:
    """From now on, whatever nodes this process starts."""
    utils.get_dashboard_dependency_error = lambda: ImportError("left out")
    services.get_node = _get_node_patiently


def _get_node_patiently(*args: Any, **settings: Any) -> Any:
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return _get_node(*args, **settings)
        except RuntimeError:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


class LeanProvider(FakeMultiNodeProvider):
    """Lives in the process of the autoscaler alone."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        start_lean_nodes()
        super().__init__(*args, **settings)


if __name__ == "__main__":
    from ray.scripts.scripts import main

    start_lean_nodes()
    main()
