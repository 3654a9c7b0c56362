"""The spatial skill: descriptions and questions about where things are, templated from boxes and depths.

The kinds are those of VILA² (arXiv 2407.17453): between things closest, in front, behind, left, right (and above and
below, which boxes show as well); with respect to the camera close, far, left, right. Things whose name occurs twice in
an image are not spoken of; relations that are not clear (see `relations`) are not, either.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from itertools import combinations

from vila2_ray.skills.relations import (
    RELATIONS,
    CameraRelation,
    Statement,
    camera_relations,
    clear_statements,
    closest,
    holds,
    inverse,
    named_once,
    relations_between,
)
from vila2_ray.skills.things import Annotation, Conversation, Thing

MAX_PAIRS = 8
"""Pairs of things that a description speaks of; more are drawn from."""
NUM_QUESTIONS = 6
"""Questions of a conversation after its description, at most."""
_CAMERA: dict[CameraRelation, str] = {
    "left": "on the left",
    "right": "on the right",
    "close": "close",
    "far": "far away",
}
_OPPOSITE: dict[CameraRelation, CameraRelation] = {"left": "right", "right": "left", "close": "far", "far": "close"}


def describe(annotation: Annotation, rng: random.Random) -> str:
    """`the cat is left of the dog. the cat is above the dog.` for every clear pair, at most MAX_PAIRS of them.

    Where depth is known, also which thing is closest and which are close or far; where no two things can be told
    apart, on which side of the image a thing lies. Empty when there is nothing to say.
    """
    things = list(annotation.things or ())
    known = named_once(things)
    pairs = [(a, b) for a, b in combinations(known, 2) if relations_between(a, b)]
    if len(pairs) > MAX_PAIRS:
        kept = set(rng.sample(range(len(pairs)), MAX_PAIRS))
        pairs = [pair for index, pair in enumerate(pairs) if index in kept]
    said = [f"the {a.name} is {relation} the {b.name}." for a, b in pairs for relation in relations_between(a, b)]
    for thing in known:
        said += [
            f"the {thing.name} is {_CAMERA[relation]}."
            for relation in camera_relations(thing, things)
            if relation in ("close", "far") or not pairs
        ]
    nearest = closest(things)
    if nearest in known:
        said.append(f"the closest thing is the {nearest.name}.")
    return " ".join(said)


def converse(
    annotation: Annotation,
    rng: random.Random,
    prompts: Sequence[str],
    questions: Sequence[str],
    num_questions: int = NUM_QUESTIONS,
) -> Conversation:
    """A description, asked for by one of the prompts and questions, then at most `num_questions` questions.

    Among these are as many answered `yes` as `no`: each statement that is asked about is asked both ways round, with
    its relation or the inverse. Empty when there is nothing to learn. Deterministic given `rng`.
    """
    description = describe(annotation, rng)
    if not description:
        return []
    things = list(annotation.things or ())
    asked = [statement_questions(statement, rng) for statement in _drawn(clear_statements(things), rng, num_questions)]
    closed = asked + [pair for thing in named_once(things) for pair in _camera_questions(thing, things)]
    open_ones = _open_questions(things)
    rng.shuffle(open_ones)
    # yes and no come in twos: a third of the room, rounded, is for open questions
    num_open = min(len(open_ones), max(num_questions - 2 * len(closed), round(num_questions / 3)))
    turns = open_ones[:num_open]
    rng.shuffle(closed)
    for pair in closed[: (num_questions - num_open) // 2]:
        turns += pair
    rng.shuffle(turns)
    return [(rng.choice([*prompts, *questions]), description), *turns]


def statement_questions(statement: Statement, rng: random.Random) -> Conversation:
    """A true statement asked both ways round: once answered `yes`, once `no`, by the relation or its inverse."""
    one, relation, other = statement if rng.random() < 0.5 else statement.turned_round
    return [(_question(one, relation, other), "yes"), (_question(other, relation, one), "no")]


def question_pairs(annotation: Annotation, rng: random.Random, num_pairs: int = MAX_PAIRS) -> list[Conversation]:
    """For evaluation: at most `num_pairs` clear statements drawn from an image, each as `statement_questions` asks it.

    As many are asked by each relation as by its inverse on average, so that always saying `yes` to `left` is no help.
    """
    drawn = _drawn(clear_statements(annotation.things or ()), rng, num_pairs)
    return [statement_questions(statement, rng) for statement in drawn]


def _question(one: str, relation: str, other: str) -> str:
    return f"is the {one} {relation} the {other}?"


def _drawn(statements: Iterable[Statement], rng: random.Random, number: int) -> list[Statement]:
    there = list(statements)
    return rng.sample(there, min(number, len(there)))


def _camera_questions(thing: Thing, things: Sequence[Thing]) -> list[Conversation]:
    """Two questions of each relation to the camera, the first answered `yes`, the second `no`."""
    return [
        [
            (f"is the {thing.name} {_CAMERA[relation]}?", "yes"),
            (f"is the {thing.name} {_CAMERA[_OPPOSITE[relation]]}?", "no"),
        ]
        for relation in camera_relations(thing, things)
    ]


def _open_questions(things: Sequence[Thing]) -> Conversation:
    """`what is left of the dog?` where exactly one thing is, and no other may be; where one is; which is closest."""
    known = named_once(things)
    asked: Conversation = []
    for thing in known:
        others = [other for other in things if other is not thing]
        for relation in RELATIONS:
            may_be = [other for other in others if holds(other, relation, thing) is not False]
            if len(may_be) == 1 and may_be[0] in known and holds(may_be[0], relation, thing):
                asked.append((f"what is {relation} the {thing.name}?", f"the {may_be[0].name}"))
    for one, other in combinations(known, 2):
        if found := relations_between(one, other):
            asked.append((f"where is the {one.name} from the {other.name}?", _said_together(found)))
            back = tuple(inverse(relation) for relation in found)
            asked.append((f"where is the {other.name} from the {one.name}?", _said_together(back)))
    nearest = closest(things)
    if nearest in known:
        asked.append(("what is closest?", f"the {nearest.name}"))
    return asked


def _said_together(relations: Sequence[str]) -> str:
    """`left and above`."""
    return " and ".join(relation.removesuffix(" of") for relation in relations)
