"""Reading: what the specialist is taught to say of printed text, from the lines that an OCR engine read.

VILA² (arXiv 2407.17453) asks for the text in the image, briefly: lines in reading order and nothing else. Images
without text teach to say so; only a share of them is taken, else that would be the commonest answer of all.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

from vila2_ray.skills.printed import words_of
from vila2_ray.skills.things import Annotation, Conversation, Line

NO_TEXT = "there is no text."
"""The careful answer where nothing is printed."""
MAX_WORDS = 150
"""Of an answer; a longer page is read up to the end of a line."""
KEPT_EMPTY = 0.2
"""Share of the images without text that conversations are made of. With p of all images without text, that makes
0.2 p / (0.2 p + 1 − p) of the conversations: under a third up to p = 0.71."""
_IS_THERE = "is there text in the image?"
_WHAT_ONE = ("what does the sign say?", "what does the text say?", "read the text.")
_WHAT_MANY = ("what does the text say?", "read the text.")
_AT = {"top": "what is the text at the top?", "bottom": "what is the text at the bottom?"}
_SIGN_WORDS = 4
"""A single line of at most so many words can be asked for as a sign."""


def describe(annotation: Annotation, rng: random.Random) -> str:
    """The text in reading order as one line, up to MAX_WORDS; NO_TEXT where there is none, "" where that is not known.

    There is one careful answer: nothing is drawn from `rng`.
    """
    if annotation.lines is None:
        return ""
    read: list[str] = []
    num = 0
    for line in annotation.lines:
        num += len(words_of(line.text))
        if read and num > MAX_WORDS:
            break
        read.append(_in_one_line(line.text))
    return " ".join(filter(None, read)) or NO_TEXT


def converse(
    annotation: Annotation,
    rng: random.Random,
    prompts: Sequence[str],
    questions: Sequence[str],
    kept_empty: float = KEPT_EMPTY,
) -> Conversation:
    """What to read out, under one of the prompts or questions, then whether there is text and what some of it says.

    Empty where the lines are not known, and for all but `kept_empty` of the images that have none.
    """
    text = describe(annotation, rng)
    if not text or (text == NO_TEXT and rng.random() >= kept_empty):
        return []
    asked = [(_IS_THERE, "no" if text == NO_TEXT else "yes"), *_questions(annotation.lines or (), text, rng)]
    rng.shuffle(asked)
    return [(rng.choice((*prompts, *questions)), text), *asked]


def provenance(annotation: Annotation) -> dict[str, Any]:
    """How the lines were read: num_lines, mean_confidence and min_confidence (None without lines), languages."""
    scores = [line.score for line in annotation.lines or ()]
    return {
        "num_lines": len(scores),
        "mean_confidence": sum(scores) / len(scores) if scores else None,
        "min_confidence": min(scores, default=None),
        "languages": sorted({line.language for line in annotation.lines or () if line.language}),
    }


def _questions(lines: Sequence[Line], text: str, rng: random.Random) -> Iterable[tuple[str, str]]:
    if len(lines) == 1:
        yield rng.choice(_WHAT_ONE if len(words_of(text)) <= _SIGN_WORDS else _WHAT_MANY), text
    if len(lines) < 2:
        return
    for place, question in _AT.items():
        line = _outermost(lines, place)
        if line is not None:
            yield question, _in_one_line(line.text)


def _in_one_line(text: str) -> str:
    return " ".join(text.split())


def _outermost(lines: Sequence[Line], place: str) -> Line | None:
    """The one line that lies wholly above or below all others; None where no line does."""
    if place == "top":
        first, *others = sorted(lines, key=lambda line: line.box.ymax)
        return first if all(first.box.ymax <= other.box.ymin for other in others) else None
    first, *others = sorted(lines, key=lambda line: -line.box.ymin)
    return first if all(first.box.ymin >= other.box.ymax for other in others) else None
