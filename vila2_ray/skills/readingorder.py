"""The order in which people read the lines of an image: columns one after the other, rows from top to bottom.

A recursive cut of the layout (XY-cut, Nagy and Seth 1984), told from boxes alone. A gutter parts columns where many
rows leave it free and it is narrower than the lines beside it, as between columns of prose; cells of a table are
further apart than they are wide, and tables are read row by row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import median

from vila2_ray.skills.things import Line

MIN_COLUMN_ROWS = 3
"""So many rows on either side make a column; fewer are words of a row, far apart."""
MIN_GUTTER_HEIGHTS = 0.5
"""A gutter is at least so wide, in heights of the boxes, which are taller than the letters."""
_SLACK = 0.2
"""Boxes of neighbouring and of slanted lines reach into one another: this share of the smaller side is no overlap."""

Spans = list[tuple[int, int]]


def reading_order(lines: Iterable[Line], aspect: float = 1.0) -> tuple[Line, ...]:
    """The lines as they are read, from left to right within a row; `aspect` is the image's width by its height.

    Slanted lines are fine. A page that stands on its side is read as if it stood upright.
    """
    return tuple(_ordered(list(lines), aspect))


def _ordered(lines: list[Line], aspect: float) -> list[Line]:
    bands, ordered, start = _bands(lines), [], 0
    while start < len(bands):
        stop = _end_of_run(bands, start)
        columns = _columns([line for band in bands[start:stop] for line in band], aspect)
        if columns:
            ordered += [line for column in columns for line in _ordered(column, aspect)]
        else:
            ordered += [line for band in bands[start:stop] for row in _rows(band) for line in row]
        start = stop
    return ordered


def _bands(lines: Sequence[Line]) -> list[list[Line]]:
    """Lines parted wherever a horizontal cut meets none, from top to bottom."""
    bands: list[list[Line]] = []
    bottom = 0
    for line in sorted(lines, key=lambda line: (line.box.ymin, line.box.xmin)):
        if not bands or line.box.ymin >= bottom - _SLACK * (line.box.ymax - line.box.ymin):
            bands.append([])
        bands[-1].append(line)
        bottom = max(bottom, line.box.ymax)
    return bands


def _end_of_run(bands: Sequence[Sequence[Line]], start: int) -> int:
    """Where the bands from `start` on end that all leave one gutter free."""
    covered: Spans = []
    for number in range(start, len(bands)):
        for line in bands[number]:
            covered = _cover(covered, line)
        if number > start and len(covered) < 2:
            return number
    return len(bands)


def _cover(covered: Spans, line: Line) -> Spans:
    """Disjoint spans of x, with that of one more line."""
    left, right = line.box.xmin, line.box.xmax
    apart = []
    for span in covered:
        if span[1] < left or span[0] > right:
            apart.append(span)
        else:
            left, right = min(left, span[0]), max(right, span[1])
    return sorted([*apart, (left, right)])


def _columns(lines: Sequence[Line], aspect: float) -> tuple[list[Line], list[Line]] | None:
    """Left and right of the widest gutter between columns of prose; None where there is none."""
    if len(lines) < 2 * MIN_COLUMN_ROWS:
        return None
    covered: Spans = []
    for line in lines:
        covered = _cover(covered, line)
    height = median(line.box.ymax - line.box.ymin for line in lines)
    gutters = [(right[0] - left[1], left[1]) for left, right in pairwise(covered)]
    for gutter, edge in sorted(gutters, reverse=True):
        if gutter * aspect < MIN_GUTTER_HEIGHTS * height:
            break
        sides = [line for line in lines if line.box.xmax <= edge], [line for line in lines if line.box.xmin > edge]
        if all(_is_column(side, gutter) for side in sides):
            return sides
    return None


def _is_column(lines: Sequence[Line], gutter: int) -> bool:
    is_wide = median(line.box.xmax - line.box.xmin for line in lines) > gutter
    return is_wide and len(_rows(lines)) >= MIN_COLUMN_ROWS


def _rows(lines: Sequence[Line]) -> list[list[Line]]:
    """Rows from top to bottom, each from left to right. Lines above one another are never of one row."""
    rows: list[list[Line]] = []
    for line in sorted(lines, key=lambda line: (_middle(line), line.box.xmin)):
        row = rows[-1] if rows else []
        if row and _is_beside(_nearest(line, row), line) and not any(_is_above(other, line) for other in row):
            row.append(line)
        else:
            rows.append([line])
    return [sorted(row, key=lambda line: line.box.xmin) for row in rows]


def _middle(line: Line) -> float:
    return (line.box.ymin + line.box.ymax) / 2


def _nearest(line: Line, row: Sequence[Line]) -> Line:
    return min(row, key=lambda other: abs(other.box.xmin - line.box.xmin))


def _is_beside(one: Line, other: Line) -> bool:
    """Whether their middles are nearer than half the height of the lower of the two."""
    smaller = min(one.box.ymax - one.box.ymin, other.box.ymax - other.box.ymin)
    return abs(_middle(one) - _middle(other)) < smaller / 2


def _is_above(one: Line, other: Line) -> bool:
    """Whether the two share more of the width than slanted boxes may."""
    shared = min(one.box.xmax, other.box.xmax) - max(one.box.xmin, other.box.xmin)
    return shared > _SLACK * min(one.box.xmax - one.box.xmin, other.box.xmax - other.box.xmin)
