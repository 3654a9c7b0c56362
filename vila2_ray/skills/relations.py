"""Spatial relations as boxes have them: which hold clearly, and which statements of a text boxes contradict.

Seen from the camera. `left of` and `right of` follow from the boxes' centres along x, `above` and `below` along y,
`in front of` and `behind` from depth where it is known. What lies between clearly so and clearly not so is neither
taught nor judged. How sentences state relations stands in `statements`; its names can be had from here, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Literal, NamedTuple

from vila2_ray.skills.statements import (
    RELATIONS,
    Relation,
    Statement,
    implied_statements,
    inverse,
    parse_statements,
    states_where,
)
from vila2_ray.skills.things import Thing

__all__ = [
    "RELATIONS",
    "CameraRelation",
    "Checked",
    "Relation",
    "Statement",
    "camera_relations",
    "check_statements",
    "clear_statements",
    "closest",
    "holds",
    "implied_statements",
    "inverse",
    "named_once",
    "parse_statements",
    "relations_between",
    "states_where",
]

CameraRelation = Literal["left", "right", "close", "far"]

MARGIN = 100
"""Thousandths of the image that centres must lie apart for a relation to be clear; with less than half of it, it
clearly does not hold."""
MAX_OVERLAP = 0.5
"""Share of the narrower thing's extent along the axis that both may cover, where a relation is clear."""
MIN_DEPTH_DIFFERENCE = 0.1
"""Share of the farther thing's depth that the nearer one must be nearer; with less than half, it is not nearer."""


class Checked(NamedTuple):
    """What boxes say of statements."""

    num_right: int
    num_wrong: int
    num_unknown: int
    """A thing that is not there or there more than once, a depth that is not known, or centres too close to tell."""


def relations_between(one: Thing, other: Thing) -> tuple[Relation, ...]:
    """The relations that `one` clearly has to `other`: at most one along each of x, y and depth, in this order."""
    return tuple(relation for relation in RELATIONS if holds(one, relation, other))


def holds(one: Thing, relation: Relation, other: Thing) -> bool | None:
    """Whether `one` has the relation to `other`: clearly so, clearly not so, or None where it cannot be told.

    Along x and y it is clear when the centres lie MARGIN apart and the things share at most MAX_OVERLAP of the narrower
    extent, and clearly not so when the centres lie less than half of MARGIN that way; in depth by
    MIN_DEPTH_DIFFERENCE alike.
    """
    if relation in ("right of", "below", "behind"):
        return holds(other, inverse(relation), one)
    if relation == "in front of":
        if one.depth is None or other.depth is None or max(one.depth, other.depth) <= 0:
            return None
        difference = (other.depth - one.depth) / max(one.depth, other.depth)
        return True if difference > MIN_DEPTH_DIFFERENCE else None if difference >= MIN_DEPTH_DIFFERENCE / 2 else False
    axis = 0 if relation == "left of" else 1
    distance = other.box.center[axis] - one.box.center[axis]
    if distance < MARGIN / 2:
        return False
    shared = min(one.box[axis + 2], other.box[axis + 2]) - max(one.box[axis], other.box[axis])
    narrower = min(thing.box[axis + 2] - thing.box[axis] for thing in (one, other))
    return True if distance >= MARGIN and shared <= MAX_OVERLAP * narrower else None


def named_once(things: Iterable[Thing]) -> list[Thing]:
    """Things that can be spoken of by name: those whose name no other thing of the image has."""
    there = list(things)
    times = Counter(thing.name.casefold() for thing in there)
    return [thing for thing in there if times[thing.name.casefold()] == 1 and thing.box.is_valid]


def clear_statements(things: Iterable[Thing]) -> list[Statement]:
    """Every clear relation between things named once, each pair one way round, in the things' order."""
    pairs = combinations(named_once(things), 2)
    return [Statement(a.name, relation, b.name) for a, b in pairs for relation in relations_between(a, b)]


def camera_relations(thing: Thing, things: Sequence[Thing]) -> tuple[CameraRelation, ...]:
    """Where a thing clearly is as the camera sees it.

    `left` or `right` when it lies whole on that side of the middle, its centre MARGIN away from it; `close` or `far`
    when it is in the nearest or the farthest third of the depths in the image, and these differ by
    MIN_DEPTH_DIFFERENCE.
    """
    found: list[CameraRelation] = []
    if thing.box.xmax <= 500 and thing.box.center[0] <= 500 - MARGIN:
        found.append("left")
    if thing.box.xmin >= 500 and thing.box.center[0] >= 500 + MARGIN:
        found.append("right")
    depths = [other.depth for other in things if other.depth is not None]
    if thing.depth is not None and depths and max(depths) - min(depths) > MIN_DEPTH_DIFFERENCE * max(depths):
        third = (max(depths) - min(depths)) / 3
        if thing.depth <= min(depths) + third:
            found.append("close")
        if thing.depth >= max(depths) - third:
            found.append("far")
    return tuple(found)


def closest(things: Sequence[Thing]) -> Thing | None:
    """The thing that is clearly in front of all others; None where there is none, or one has no depth."""
    if len(things) < 2:
        return None
    for thing in things:
        if all(other is thing or holds(thing, "in front of", other) for other in things):
            return thing
    return None


def check_statements(statements: Iterable[Statement], things: Iterable[Thing]) -> Checked:
    """Counts of statements that boxes bear out, contradict, or say nothing about; names in any case."""
    known = {thing.name.casefold(): thing for thing in named_once(things)}
    counts: Counter[bool | None] = Counter()
    for one, relation, other in statements:
        first, second = known.get(one.casefold()), known.get(other.casefold())
        counts[holds(first, relation, second) if first and second and first is not second else None] += 1
    return Checked(counts[True], counts[False], counts[None])
