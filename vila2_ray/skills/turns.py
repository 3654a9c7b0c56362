"""Questions to which a specialist's caption is the answer, for the training of the final model.

VILA² (arXiv 2407.17453) asks other questions than the specialist was asked by. Beside its caption as a whole, single
statements of it may be asked for: they teach the same fact as an answer, both ways round.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from vila2_ray.captions.boxes import format_box, named_boxes
from vila2_ray.skills.grounding import box_question
from vila2_ray.skills.relations import parse_statements
from vila2_ray.skills.spatial import statement_questions
from vila2_ray.skills.things import Conversation

MAX_STATEMENTS = 2
"""Statements of one caption that are asked for."""


def turns(
    skill: str, caption: str, questions: Sequence[str], asks_statements: bool, rng: random.Random
) -> Conversation:
    """One of the `questions` (at least one) with the caption as its answer.

    With `asks_statements` one or two more from the caption's own statements, as far as it has any: a relation, half of
    the time turned round into a question answered `no` (spatial), or the box of a thing (grounding). Empty for an empty
    caption. Deterministic given `rng`.
    """
    if not caption.strip():
        return []
    asked = [(rng.choice(questions), caption)]
    if asks_statements:
        single = {"spatial": _of_relations, "grounding": _of_boxes}.get(skill)
        statements = single(caption, rng) if single else []
        asked += rng.sample(statements, min(len(statements), rng.randint(1, MAX_STATEMENTS)))
    return asked


def _of_relations(caption: str, rng: random.Random) -> Conversation:
    return [rng.choice(statement_questions(statement, rng)) for statement in parse_statements(caption)]


def _of_boxes(caption: str, rng: random.Random) -> Conversation:
    boxes = named_boxes(caption)
    names = [found.name for found in boxes]
    return [(box_question(n), format_box(box)) for n, box, _ in boxes if n and names.count(n) == 1]
