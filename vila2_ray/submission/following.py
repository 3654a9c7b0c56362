"""Following a job's log to its end, across connections that break: a laptop that slept, a tunnel opened anew."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from vila2_ray.cli_progress import Screen
from vila2_ray.errors import ClusterUnusable
from vila2_ray.submission.cluster import Cluster
from vila2_ray.submission.endings import ending

PATIENCE_SECONDS = 120.0
"""How long nobody may answer, before the head counts as gone. Sleep of the whole machine does not count."""
RECENT_LINES = 20


def follow(cluster: Cluster, name: str, recent_only: bool, is_gone: Callable[[], bool] = lambda: False) -> int:
    """Show a job's log until it ends, or the end of it (`recent_only`) and what follows; the job's exit code.

    `is_gone` says whether there is no use in waiting for the head any more. Raises ClusterUnusable.
    """
    screen = Screen()
    shown = _Shown(screen, _before_the_last_lines(cluster.log(name)) if recent_only else 0)
    silent_since: float | None = None
    try:
        while True:
            try:
                shown.position = 0
                cluster.tail(name, shown.take)
                job = cluster.job(name)
                silent_since = None
                if job.status.is_terminal():
                    break
            except ClusterUnusable as error:
                silent_since = silent_since or time.monotonic()
                if is_gone() or time.monotonic() - silent_since > PATIENCE_SECONDS:
                    raise ClusterUnusable(
                        f"job {name} does not answer any more: its Ray head is gone, or the way to {cluster.address}. "
                        "The same command joins the job if it lives, and carries on from what is finished if not"
                    ) from error
            time.sleep(1.0)  # the connection broke, not the job
    finally:
        screen.close()
    code, sentence = ending(job)
    if sentence:
        print(f"vila2: job {name}: {sentence}", file=sys.stderr)
    return code


class _Shown:
    """How much of a log has been shown, while it is read from its beginning with every connection."""

    def __init__(self, screen: Screen, upto: int) -> None:
        self._screen, self._upto = screen, upto
        self.position = 0

    def take(self, text: str) -> None:
        self._screen.write(text[max(0, self._upto - self.position) :])
        self.position += len(text)
        self._upto = max(self._upto, self.position)


def _before_the_last_lines(log: str) -> int:
    """Where the last lines of a log begin."""
    return len(log) - sum(len(line) for line in log.splitlines(keepends=True)[-RECENT_LINES:])
