"""Ranges of a lost process are tried whole, then in pieces, then alone; no single row is given up after one loss."""

from __future__ import annotations

from vila2_ray.recaption.plan import RowRange
from vila2_ray.recaption.suspects import Suspects

RANGE, OTHER = RowRange("pretrain", "00000", 0, 256), RowRange("pretrain", "00001", 0, 256)


def test_what_was_lost_once_is_tried_whole() -> None:
    verdict = Suspects().judge([RANGE, OTHER], alone=False)
    assert verdict == ([RANGE, OTHER], [], [])


def test_what_was_lost_twice_is_cut_and_the_other_is_not() -> None:
    suspects = Suspects()
    suspects.judge([RANGE], alone=False)
    whole, smaller, hopeless = suspects.judge([RANGE, OTHER], alone=False)
    assert whole == [OTHER]
    assert smaller == RANGE.cut(16)
    assert not hopeless


def test_the_row_that_does_it_is_alone_two_passes_later_and_is_tried_alone_twice() -> None:
    suspects, row, lost, passes = Suspects(), 77, [RANGE], 0
    alone = False
    while True:
        passes += 1
        whole, smaller, hopeless = suspects.judge(lost, alone)
        if hopeless:
            break
        alone = bool(smaller)
        lost = [piece for piece in [*whole, *smaller] if piece.start <= row < piece.stop]
    assert hopeless == [RowRange("pretrain", "00000", row, row + 1)]
    assert passes == 5  # whole, whole, 16 rows, alone, alone
