"""Flags on specialists' captions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vila2_ray.captions.boxes import Box
from vila2_ray.skills.flags import SkillFlag, flags, says_no_text
from vila2_ray.skills.things import Annotation, Line, Thing

THINGS = (Thing("cat", Box(0, 0, 300, 300)), Thing("dog", Box(600, 600, 900, 900)))
PAGE = Annotation(THINGS, (Line("Stop here", Box(0, 0, 9, 9)), Line("for ice cream", Box(0, 9, 9, 19))))
BLANK = Annotation(THINGS, ())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat [1,2,3,4], a dog [5,6,7,8].", []),
        ("a cat [1,2,3,4], a dog [5,6,7", ["box_malformed"]),
        ("a cat [1,2,3,4], a dog [5,6,1000,8] [9,9,5,5].", ["box_out_of_range", "box_corners"]),
        ("a cat [4,4,4,4].", ["box_corners", "no_box"]),
        ("a cat and a dog.", ["no_box"]),
        ("", ["no_box"]),
    ],
)
def test_grounding(text: str, expected: list[str]) -> None:
    assert flags("grounding", text, None) == flags("grounding", text, PAGE) == expected


@pytest.mark.parametrize(
    ("text", "annotation", "expected"),
    [
        ("STOP HERE. for ice-cream", PAGE, []),
        ("stop here for ice tea", PAGE, []),
        ("stop now", PAGE, ["word_not_read"]),
        ("stop", BLANK, ["word_not_read"]),
        ("there is no text.", BLANK, []),
        ("There is no visible text in the image.", PAGE, ["no_text_but_read"]),
        ("no words", Annotation(lines=(Line("No words!", Box(0, 0, 9, 9)),)), []),
        ("", PAGE, []),
        ("anything", Annotation(THINGS), []),
        ("anything", None, []),
    ],
)
def test_ocr(text: str, annotation: Annotation | None, expected: list[str]) -> None:
    assert flags("ocr", text, annotation) == expected


def test_how_much_may_be_unread() -> None:
    assert flags("ocr", "stop now", PAGE, max_unread_share=0.5) == []
    assert flags("ocr", "stop here for ice tea", PAGE, max_unread_share=0.1) == ["word_not_read"]


@pytest.mark.parametrize(
    ("text", "annotation", "expected"),
    [
        ("the cat is left of the dog. the dog is below the cat.", PAGE, []),
        ("the cat is left of the dog. the cat is below the dog.", PAGE, ["relation_wrong"]),
        ("the cat is behind the dog and left of the unicorn.", PAGE, []),
        ("the cat is below the dog.", None, []),
        ("the cat is below the dog.", Annotation(lines=()), []),
        ("the cat is on the left.", BLANK, []),
        ("a cat and a dog.", BLANK, ["no_relation"]),
        ("", None, ["no_relation"]),
    ],
)
def test_spatial(text: str, annotation: Annotation | None, expected: list[str]) -> None:
    assert flags("spatial", text, annotation) == expected


def test_no_text_is_said_in_many_ways() -> None:
    assert all(map(says_no_text, ("No text.", "without any words", "nothing is written here", "not any letters")))
    assert not any(map(says_no_text, ("", "stop", "text", "No. 5 text", "know words")))


@given(st.sampled_from(("spatial", "grounding", "ocr")), st.text(), st.sampled_from((None, PAGE, BLANK, Annotation())))
def test_any_text_can_be_judged(skill: str, text: str, annotation: Annotation | None) -> None:
    found = flags(skill, text, annotation)
    assert found == [flag.value for flag in SkillFlag if flag.value in found]
