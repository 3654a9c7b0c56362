"""Boxes in captions: `[xmin,ymin,xmax,ymax]`, integers 0–999, normalised to the image's width and height."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from vila2_ray.captions.mentions import find_names

MAX_COORDINATE = 999
_BOX = re.compile(r"\[" + ",".join([r"\s*(-?[0-9]{1,9})\s*"] * 4) + r"\]")
_BRACKET = re.compile(r"\[[^\[\]]*\]?")
_SENTENCE_END = re.compile(r"[.;!?\n]")
_ARTICLE = re.compile(r"\b(?:an?|the|his|her|its|their|this|that|these|those|some|one|two|three|four|five)\b", re.I)
_LINKS = {"at", "in", "is", "are", "with", "and", "or", "on", "by", "from", "seen", "located", "box", "place", "of"}
"""Words that may stand between a noun and its box, or before the noun."""
_MAX_NOUN_WORDS = 4


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

    @property
    def center(self) -> tuple[float, float]:
        """x and y of the middle."""
        return (self.xmin + self.xmax) / 2, (self.ymin + self.ymax) / 2


class BoxProblem(str, Enum):
    """Why a bracket is no box of the image."""

    MALFORMED = "malformed"
    """Not four integers between brackets."""
    OUT_OF_RANGE = "out_of_range"
    """A corner lies outside of 0–999."""
    CORNERS = "corners"
    """The second corner is not to the right of and below the first."""


class BoxesInText(NamedTuple):
    """What a text holds in square brackets."""

    valid: list[tuple[int, Box]]
    """(position of the bracket in the text, box), in order."""
    problems: list[tuple[int, BoxProblem]]
    """(position of the bracket in the text, what is wrong with it), in order."""


class NamedBox(NamedTuple):
    """A box with the noun that stands before it."""

    name: str
    """Lower-case without article, or one of the names asked for; empty where no noun is there."""
    box: Box
    start: int
    """The noun's first character in the text; the bracket's where there is none."""


def parse_boxes(text: str) -> BoxesInText:
    """Every bracket of a caption, read as a box where it is one. Takes any text."""
    valid: list[tuple[int, Box]] = []
    problems: list[tuple[int, BoxProblem]] = []
    for bracket in _BRACKET.finditer(text):
        read = _read(bracket.group())
        if isinstance(read, Box):
            valid.append((bracket.start(), read))
        else:
            problems.append((bracket.start(), read))
    return BoxesInText(valid, problems)


def named_boxes(text: str, names: Iterable[str] | None = None) -> list[NamedBox]:
    """Every valid box of a caption with the noun before it, in order.

    The noun is looked for between the bracket and the one before it, within the sentence: with `names`, the last of
    them that is named there; without, the words after the last article. Boxes that follow each other directly, with
    no more than a comma or `and` between them, share their noun (`two dogs [..] and [..]`).
    """
    known = None if names is None else tuple(names)
    found: list[NamedBox] = []
    end, last = 0, NamedBox("", Box(0, 0, 0, 0), 0)
    for bracket in _BRACKET.finditer(text):
        between = text[end : bracket.start()]
        if end == 0 or re.search(r"\w", re.sub(r"\band\b", "", between)) or _SENTENCE_END.search(between):
            name, at = _noun(between, known)
            last = NamedBox(name, last.box, end + at)
        end = bracket.end()
        read = _read(bracket.group())
        if isinstance(read, Box):
            found.append(last._replace(box=read))
    return found


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


def thousandths(corners: tuple[float, float, float, float], width: float, height: float) -> Box:
    """The box of corners given in the units of `width` and `height` (pixels; 1 and 1 for shares of the image).

    Corners outside of the image are moved to its edge; the box may then be empty, see `Box.is_valid`.
    """
    x = [min(MAX_COORDINATE, max(0, int(corner * 1000 / width))) for corner in corners[::2]]
    y = [min(MAX_COORDINATE, max(0, int(corner * 1000 / height))) for corner in corners[1::2]]
    return Box(x[0], y[0], x[1], y[1])


def _read(bracket: str) -> Box | BoxProblem:
    match = _BOX.fullmatch(bracket)
    if match is None:
        return BoxProblem.MALFORMED
    box = Box(*map(int, match.groups()))
    if not all(0 <= corner <= MAX_COORDINATE for corner in box):
        return BoxProblem.OUT_OF_RANGE
    return box if box.is_valid else BoxProblem.CORNERS


def _noun(between: str, names: tuple[str, ...] | None) -> tuple[str, int]:
    """The noun that a box is said of and where it begins, in the text before its bracket; "" where there is none."""
    skipped = max((end.end() for end in _SENTENCE_END.finditer(between)), default=0)
    part = between[skipped:]
    if names is not None:
        named = find_names(part, names)
        return (named[-1].name, skipped + named[-1].start) if named else ("", len(between))
    begin = max((article.end() for article in _ARTICLE.finditer(part)), default=0)
    words = list(re.finditer(r"[^\W_][\w'’-]*", part[begin:]))
    while words and words[-1].group().lower() in _LINKS:
        words.pop()
    for index in range(len(words) - 1, -1, -1):
        if words[index].group().lower() in _LINKS:
            words = words[index + 1 :]
            break
    words = words[-_MAX_NOUN_WORDS:]
    if not words:
        return "", len(between)
    said = part[begin + words[0].start() : begin + words[-1].end()]
    return " ".join(said.lower().split()), skipped + begin + words[0].start()
