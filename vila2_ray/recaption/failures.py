"""Row ranges that fail one after the other: a few are bad luck or bad samples, many are a broken engine or storage."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from vila2_ray.recaption.plan import RowRange


@dataclass(frozen=True)
class FailedRange:
    """A range that ended without any caption because the engine or the storage erred."""

    piece: RowRange
    problem: str
    """The first error, in words."""
    actor: str
    """The process that had it."""


class FailuresInARow:
    """Counts failed ranges since the last that got a caption, over all actors and for each.

    For each, since the actor with the broken GPU fails fast and takes most of the work while the others go on well.
    `most` ranges in a row are too many (0: never) once they hold half as many samples as `most` full ranges: the few
    samples of a retry may all be hopeless without anything being broken.
    """

    def __init__(self, most: int, range_rows: int) -> None:
        self._most, self._most_rows = most, most * range_rows // 2
        self._of_all: list[FailedRange] = []
        self._of_actor: defaultdict[str, list[FailedRange]] = defaultdict(list)

    def add(self, failed: FailedRange) -> list[FailedRange]:
        """The failures in a row that are too many by now; empty while they are not."""
        rows = self._of_all, self._of_actor[failed.actor]
        for row in rows:
            row.append(failed)
        return next((row for row in rows if self._is_too_many(row)), [])

    def captioned(self, actor: str) -> None:
        """`actor` has captioned a range."""
        self._of_all = []
        self._of_actor.pop(actor, None)

    def _is_too_many(self, row: list[FailedRange]) -> bool:
        num_rows = sum(failed.piece.num_rows for failed in row)
        return 0 < self._most <= len(row) and num_rows >= self._most_rows
