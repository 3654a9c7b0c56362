"""What a specialist's caption can be held against on the page: boxes to draw, words to mark, relations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vila2_ray.captions.boxes import iou, named_boxes
from vila2_ray.report.data import DrawnBox, Span, Told
from vila2_ray.skills.flags import says_no_text
from vila2_ray.skills.printed import unread_words, words_of
from vila2_ray.skills.relations import check_statements, parse_statements
from vila2_ray.skills.things import Annotation, Thing

MIN_IOU = 0.5
"""Intersection over union from which a box counts as the thing's."""


@dataclass(frozen=True)
class Evidence:
    """What one caption gives, as far as its skill has any of it."""

    boxes: tuple[DrawnBox, ...] = ()
    words: tuple[Span, ...] = ()
    relations: tuple[Told, ...] = ()


def evidence(skill: str, text: str, truth: Mapping[str, Any] | None, names: Iterable[str]) -> Evidence:
    """Of a caption of the layer of `skill`; checked where the picture's truth holds boxes or words."""
    known = Annotation.from_any_truth(truth)
    if skill == "grounding":
        return Evidence(boxes=_boxes(text, known, names))
    if skill == "spatial":
        return Evidence(relations=_relations(text, known, names))
    if skill == "ocr" and known.lines is not None:
        return Evidence(words=_words(text, known))
    return Evidence()


def _boxes(text: str, known: Annotation, names: Iterable[str]) -> tuple[DrawnBox, ...]:
    things = known.things
    return tuple(
        DrawnBox(name, box, None if things is None else _is_there(name, box, things))
        for name, box, _ in named_boxes(text, names if things is not None else None)
    )


def _is_there(name: str, box: Any, things: tuple[Thing, ...]) -> bool:
    return any(thing.name == name and iou(box, thing.box) >= MIN_IOU for thing in things)


def _relations(text: str, known: Annotation, names: Iterable[str]) -> tuple[Told, ...]:
    told = []
    for statement in dict.fromkeys(parse_statements(text, names)):
        is_right = None
        if known.things is not None:
            checked = check_statements([statement], known.things)
            is_right = None if checked.num_unknown else checked.num_right > 0
        told.append(Told(f"{statement.one} {statement.relation} {statement.other}", is_right))
    return tuple(told)


def _words(text: str, known: Annotation) -> tuple[Span, ...]:
    """Of a text that says that there is none, no word is marked."""
    assert known.lines is not None
    if says_no_text(text):
        return ()
    unread = set(unread_words(text, known.lines))
    there = {word for line in known.lines for word in words_of(line.text)}
    spans = []
    for match in re.finditer(r"\w+", text):
        word = "".join(words_of(match.group()))
        if word in there or word in unread:
            spans.append(Span(*match.span(), "read" if word in there else "unread"))
    return tuple(spans)
