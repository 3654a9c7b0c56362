"""Row ranges that were in hand when a process was lost: whose fault it was, and what is done with them next. No Ray.

Ray Data lets go of what it knows of a lost range but that it is not there: a spot machine that was taken looks like an
engine that crashed, and at a crash all ranges of the process look alike. So each is tried again whole, beside others as
before. Nodes are seldom lost twice under the same range, so that one that is there again is suspected: it is cut small
and its pieces are tried one at a time in an actor, where a death is the fault of the piece that was there.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from vila2_ray.recaption.plan import RowRange

_PIECES = 16
"""Of 256 rows the one that ends the process is alone two passes later."""


class Verdict(NamedTuple):
    """What is still to be done of lost ranges."""

    whole: list[RowRange]
    """Tried again as they are."""
    smaller: list[RowRange]
    """Pieces, or single rows, to be tried alone."""
    hopeless: list[RowRange]
    """Single rows that ended the process each time, with nothing else in hand."""


class Suspects:
    """Remembers, over the passes of one recaptioning, which ranges were lost before."""

    def __init__(self) -> None:
        self._lost = Counter[RowRange]()
        self._lost_alone = Counter[RowRange]()

    def judge(self, lost: list[RowRange], alone: bool) -> Verdict:
        """`alone`: in this pass an actor had one range at a time."""
        verdict = Verdict([], [], [])
        for piece in lost:
            self._lost[piece] += 1
            self._lost_alone[piece] += alone
            if not alone and self._lost[piece] < 2:
                verdict.whole.append(piece)
            elif piece.num_rows > 1:
                verdict.smaller.extend(piece.cut(_PIECES))
            elif self._lost_alone[piece] < 2:
                verdict.smaller.append(piece)
            else:
                verdict.hopeless.append(piece)
        return verdict
