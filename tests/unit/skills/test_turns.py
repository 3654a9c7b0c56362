"""Questions to which a specialist's caption is the answer."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from vila2_ray.skills.turns import turns

QUESTIONS = ("where is what?", "locate.")
SPATIAL = "the cat is left of the dog. the dog is below the red car."
GROUNDING = "a cat [1,2,3,4], a dog [5,6,7,8], a dog [9,9,11,11], an alarm clock [0,0,9,9]."


def drawn(skill: str, caption: str, number: int = 100) -> set[tuple[str, str]]:
    made = [turns(skill, caption, QUESTIONS, True, random.Random(seed)) for seed in range(number)]
    assert {conversation[0] for conversation in made} == {(question, caption) for question in QUESTIONS}
    assert {len(conversation) for conversation in made} <= {2, 3}
    return {turn for conversation in made for turn in conversation[1:]}


def test_the_caption_answers_one_of_the_questions() -> None:
    for skill in ("spatial", "grounding", "ocr"):
        (only,) = turns(skill, SPATIAL, QUESTIONS, False, random.Random(0))
        assert only[0] in QUESTIONS
        assert only[1] == SPATIAL
        assert turns(skill, " \n", QUESTIONS, True, random.Random(0)) == []


def test_stated_relations_are_asked_for_both_ways_round() -> None:
    assert drawn("spatial", SPATIAL) == {
        ("is the cat left of the dog?", "yes"),
        ("is the dog right of the cat?", "yes"),
        ("is the dog left of the cat?", "no"),
        ("is the cat right of the dog?", "no"),
        ("is the dog below the red car?", "yes"),
        ("is the red car above the dog?", "yes"),
        ("is the red car below the dog?", "no"),
        ("is the dog above the red car?", "no"),
    }


def test_boxes_of_things_named_once_are_asked_for() -> None:
    assert drawn("grounding", GROUNDING) == {
        ("give the box of the cat.", "[1,2,3,4]"),
        ("give the box of the alarm clock.", "[0,0,9,9]"),
    }


def test_text_is_asked_for_as_a_whole() -> None:
    assert len(turns("ocr", "stop", QUESTIONS, True, random.Random(0))) == 1


@given(st.sampled_from(("spatial", "grounding", "ocr")), st.text(), st.booleans(), st.integers())
def test_any_caption_gives_turns_and_the_same_ones_again(skill: str, caption: str, asks: bool, seed: int) -> None:
    made = turns(skill, caption, QUESTIONS, asks, random.Random(seed))
    assert made == turns(skill, caption, QUESTIONS, asks, random.Random(seed))
    assert bool(made) == bool(caption.strip())
