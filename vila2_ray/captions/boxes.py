"""Boxes in captions: `[xmin,ymin,xmax,ymax]`, integers 0–999, normalised to the image's width and height."""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_COORDINATE = 999
_BOX = re.compile(r"\[\s*(\d{1,4})\s*,\s*(\d{1,4})\s*,\s*(\d{1,4})\s*,\s*(\d{1,4})\s*\]")
_BRACKET = re.compile(r"\[[^\[\]]*\]?")


class Box(NamedTuple):
    """Corners in thousandths of the image, origin at the top left."""

    xmin: int
    ymin: int
    xmax: int
    ymax: int

    @property
    def is_valid(self) -> bool:
        """All corners within the image and the box not empty."""
        return 0 <= self.xmin < self.xmax <= MAX_COORDINATE and 0 <= self.ymin < self.ymax <= MAX_COORDINATE

    @property
    def area(self) -> int:
        return max(0, self.xmax - self.xmin) * max(0, self.ymax - self.ymin)


class BoxesInText(NamedTuple):
    """What a text holds in square brackets."""

    valid: list[tuple[int, Box]]
    """(position of the bracket in the text, box), in order."""
    num_malformed: int
    """Brackets that are no box, or a box that cannot be."""


def parse_boxes(text: str) -> BoxesInText:
    """Every bracket of a caption, read as a box where it is one."""
    valid: list[tuple[int, Box]] = []
    num_malformed = 0
    for bracket in _BRACKET.finditer(text):
        match = _BOX.fullmatch(bracket.group())
        box = Box(*map(int, match.groups())) if match else None
        if box is not None and box.is_valid:
            valid.append((bracket.start(), box))
        else:
            num_malformed += 1
    return BoxesInText(valid, num_malformed)


def format_box(box: Box) -> str:
    """As captions write it; `parse_boxes` reads it back."""
    return f"[{box.xmin},{box.ymin},{box.xmax},{box.ymax}]"


def iou(one: Box, other: Box) -> float:
    """Intersection over union, in [0, 1]; 0 when both are empty."""
    width = min(one.xmax, other.xmax) - max(one.xmin, other.xmin)
    height = min(one.ymax, other.ymax) - max(one.ymin, other.ymin)
    shared = max(0, width) * max(0, height)
    union = one.area + other.area - shared
    return shared / union if union else 0.0
