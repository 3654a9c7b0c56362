"""Flags on a specialist's captions: boxes that cannot be, words that nobody read, relations that boxes contradict.

As with `captions.filters`, a flag leaves the caption out of training. What an annotation does not know is not judged.
"""

from __future__ import annotations

import re
from enum import Enum

from vila2_ray.captions.boxes import BoxProblem, parse_boxes
from vila2_ray.skills.printed import unread_words, words_of
from vila2_ray.skills.relations import check_statements, parse_statements, states_where
from vila2_ray.skills.things import Annotation

MAX_UNREAD_SHARE = 0.25
"""Share of the different words said that an OCR engine need not have read: it misses some itself."""
_NO_TEXT = re.compile(
    r"\b(?:no|not any|without(?: any)?) (?:\w+ )?(?:text|words?|writing|letters|lettering|inscriptions?)\b"
    r"|\bnothing is (?:written|printed)\b|\bnothing (?:written|printed|to read)\b"
)


class SkillFlag(str, Enum):
    """Why a specialist's caption is left out: a closed set, beside `captions.filters.Flag`."""

    BOX_MALFORMED = "box_malformed"
    """A bracket does not hold four integers."""
    BOX_OUT_OF_RANGE = "box_out_of_range"
    """A box reaches outside of 0–999."""
    BOX_CORNERS = "box_corners"
    """A box's second corner is not to the right of and below its first."""
    NO_BOX = "no_box"
    """A grounding caption without any valid box."""
    WORD_NOT_READ = "word_not_read"
    """More of the words are not in the image than the OCR engine may have missed."""
    NO_TEXT_BUT_READ = "no_text_but_read"
    """It says that there is no text, but the OCR engine read some."""
    NO_RELATION = "no_relation"
    """A spatial caption that does not say where anything is."""
    RELATION_WRONG = "relation_wrong"
    """Boxes contradict a relation that it states."""


_BOX_FLAGS = {
    BoxProblem.MALFORMED: SkillFlag.BOX_MALFORMED,
    BoxProblem.OUT_OF_RANGE: SkillFlag.BOX_OUT_OF_RANGE,
    BoxProblem.CORNERS: SkillFlag.BOX_CORNERS,
}


def flags(
    skill: str, text: str, annotation: Annotation | None, max_unread_share: float = MAX_UNREAD_SHARE
) -> list[str]:
    """Flags of one caption of the `skill` (spatial, grounding, ocr), in the order of `SkillFlag`. Takes any text.

    `annotation` is what an expert saw in the image; None or a part that is None is not judged by.
    """
    found = {"spatial": _spatial, "grounding": _grounding, "ocr": _ocr}[skill](text, annotation, max_unread_share)
    return [flag.value for flag in SkillFlag if flag in found]


def says_no_text(text: str) -> bool:
    """Whether an answer is that there is no text in the image."""
    return bool(_NO_TEXT.search(text.casefold()))


def _grounding(text: str, annotation: Annotation | None, max_unread_share: float) -> set[SkillFlag]:
    boxes = parse_boxes(text)
    found = {_BOX_FLAGS[problem] for _, problem in boxes.problems}
    return found if boxes.valid else found | {SkillFlag.NO_BOX}


def _ocr(text: str, annotation: Annotation | None, max_unread_share: float) -> set[SkillFlag]:
    if annotation is None or annotation.lines is None:
        return set()
    if says_no_text(text):
        read = any(words_of(line.text) for line in annotation.lines)
        # a sign may say so, and then those are its words
        return {SkillFlag.NO_TEXT_BUT_READ} if read and unread_words(text, annotation.lines) else set()
    said = set(words_of(text))
    unread = unread_words(text, annotation.lines)
    return {SkillFlag.WORD_NOT_READ} if len(unread) > max_unread_share * len(said) else set()


def _spatial(text: str, annotation: Annotation | None, max_unread_share: float) -> set[SkillFlag]:
    found = set() if states_where(text) else {SkillFlag.NO_RELATION}
    if annotation is not None and annotation.things is not None:
        stated = parse_statements(text, [thing.name for thing in annotation.things])
        if check_statements(stated, annotation.things).num_wrong:
            found.add(SkillFlag.RELATION_WRONG)
    return found
