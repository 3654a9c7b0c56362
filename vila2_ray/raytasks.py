"""Plain tasks on the cluster: a bounded number at a time, and more as nodes come."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from vila2_ray.errors import StageFailed, in_one_line, own_cause

MAX_RETRIES = 5
"""Of a task whose process or node is lost. What it does may be done again; spot machines are lost more than once."""
_LOOK_EVERY_SECONDS = 1.0

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def spread(
    function: Callable[[_Item], _Result], items: Iterable[_Item], *, num_cpus: float = 1.0, in_order: bool = False
) -> Iterator[_Result]:
    """`function` of each item on the cluster that this process is connected to; results as they come, or `in_order`.

    Twice as many tasks are in flight as the cluster has CPUs at the time: those that wait are what brings more nodes.
    Raises our own error that a task raised, StageFailed where its process or node was lost too often.
    """
    import ray

    def call(item: _Item) -> _Result:  # Ray takes plain functions only; with what it holds, it stays in its processes
        return function(item)

    task = ray.remote(num_cpus=num_cpus, max_retries=MAX_RETRIES)(call)
    room, running = Room(lambda: ray.cluster_resources().get("CPU", 1)), deque[Any]()
    for item in items:
        while len(running) >= room.num_tasks():
            yield _next(running, in_order)
        running.append(task.remote(item))
    while running:
        yield _next(running, in_order)


def outcome(task: Any) -> Any:
    """What a task returned. Raises as `spread` does."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(task)
    except RayError as error:
        if (own := own_cause(getattr(error, "cause", None) or error)) is not None:
            raise own from error
        if isinstance(error, RayTaskError):
            raise
        raise StageFailed(
            f"a task of the cluster was lost with its process or node {MAX_RETRIES + 1} times ({in_one_line(error)}). "
            "What is finished is kept: run the same command again. If it happens again, look for too little memory"
        ) from error


def _next(running: deque[Any], in_order: bool) -> Any:
    import ray

    if in_order:
        return outcome(running.popleft())
    waiting: Sequence[Any] = list(running)
    (finished,), rest = ray.wait(waiting, num_returns=1)
    running.clear()
    running.extend(rest)
    return outcome(finished)


class Room:
    """How many tasks may be in flight by the CPUs that `look` finds, asked anew now and then: nodes come and go."""

    def __init__(self, look: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> None:
        self._look, self._clock = look, clock
        self._num_tasks = 2
        self._looked_at = -math.inf

    def num_tasks(self) -> int:
        if self._clock() - self._looked_at >= _LOOK_EVERY_SECONDS:
            self._looked_at = self._clock()
            self._num_tasks = max(2, int(2 * self._look()))
        return self._num_tasks
