"""The grounding skill: descriptions with a box after each noun, `a cat [12,34,56,78]`.

Filters are those that VILA² (arXiv 2407.17453) puts on GRIT: boxes over 70 % of the image go, and so do images with
more than 3 things of one class. Findings of low confidence, boxes that cannot be and boxes said twice go as well.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from vila2_ray.captions.boxes import MAX_COORDINATE, format_box, iou
from vila2_ray.skills.relations import named_once
from vila2_ray.skills.things import Annotation, Conversation, Thing

MAX_AREA_SHARE = 0.7
"""Of the image, that a box may cover."""
MAX_PER_CLASS = 3
"""Things of one name; an image with more is left out."""
SAME_IOU = 0.9
"""Two boxes of one name that overlap more are one thing said twice."""
NUM_QUESTIONS = 4
"""Questions of a conversation after its description, at most."""


def usable_things(annotation: Annotation, min_score: float = 0.0) -> tuple[Thing, ...]:
    """The things that are spoken of, in their order; none when one name has more than MAX_PER_CLASS of them.

    Of things said twice the more confident one stays.
    """
    kept: list[Thing] = []
    for thing in sorted(annotation.things or (), key=lambda thing: -thing.score):
        is_wide = thing.box.area > MAX_AREA_SHARE * MAX_COORDINATE**2
        if is_wide or not thing.box.is_valid or not thing.name.strip() or thing.score < min_score:
            continue
        name = thing.name.casefold()
        if not any(other.name.casefold() == name and iou(other.box, thing.box) > SAME_IOU for other in kept):
            kept.append(thing)
    times = Counter(thing.name.casefold() for thing in kept)
    if max(times.values(), default=0) > MAX_PER_CLASS:
        return ()
    chosen = {id(thing) for thing in kept}
    return tuple(thing for thing in annotation.things or () if id(thing) in chosen)


def describe(annotation: Annotation, rng: random.Random, min_score: float = 0.0) -> str:
    """`a cat [12,34,56,78], a dog [..].`, or the annotator's own sentence with boxes after its phrases.

    Empty when there is nothing to say; `rng` is not used, every skill describes by one signature.
    """
    return _described(annotation.caption, usable_things(annotation, min_score))


def converse(
    annotation: Annotation,
    rng: random.Random,
    prompts: Sequence[str],
    questions: Sequence[str],
    num_questions: int = NUM_QUESTIONS,
    min_score: float = 0.0,
) -> Conversation:
    """A description, asked for by one of the prompts and questions, then at most `num_questions` questions.

    These ask for the box of a thing named once, and for the name of what is in a box, in equal parts. Empty when there
    is nothing to learn. Deterministic given `rng`.
    """
    things = usable_things(annotation, min_score)
    description = _described(annotation.caption, things)
    if not description:
        return []
    # a thing that is spoken of by name must be the only one of its name that was seen, usable or not
    singles = [thing for thing in named_once(annotation.things or ()) if thing in things]
    asked_where = rng.sample(singles, min((num_questions + 1) // 2, len(singles)))
    asked_what = rng.sample(things, min(num_questions // 2, len(things)))
    turns = [(box_question(thing.name), format_box(thing.box)) for thing in asked_where]
    turns += [(f"what is in {format_box(thing.box)}?", with_article(thing.name)) for thing in asked_what]
    rng.shuffle(turns)
    return [(rng.choice([*prompts, *questions]), description), *turns]


def box_question(name: str) -> str:
    return f"give the box of the {name}."


def with_article(phrase: str) -> str:
    """`a cat`, `an apple`, by the first letter; as it is where the phrase begins with an article."""
    if phrase.lower().startswith(("a ", "an ", "the ")):
        return phrase
    return f"{'an' if phrase[:1].lower() in 'aeiou' else 'a'} {phrase}"


def _described(caption: str, things: Sequence[Thing]) -> str:
    if caption and any(thing.span for thing in things):
        for stop in sorted({thing.span[1] for thing in things if thing.span}, reverse=True):
            boxes = [format_box(thing.box) for thing in things if thing.span and thing.span[1] == stop]
            caption = f"{caption[:stop]} {' '.join(dict.fromkeys(boxes))}{caption[stop:]}"
        return caption
    said = [f"{with_article(thing.name)} {format_box(thing.box)}" for thing in things]
    return ", ".join(said) + "." if said else ""
