"""Descriptions with boxes, and questions for them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vila2_ray.captions.boxes import Box, format_box, named_boxes
from vila2_ray.skills import grounding
from vila2_ray.skills.things import Annotation, Thing

CAT = Thing("cat", Box(10, 20, 300, 400))
APPLE = Thing("apple", Box(500, 500, 700, 700))
SCENE = Annotation((CAT, APPLE))


def described(*things: Thing, caption: str = "") -> str:
    return grounding.describe(Annotation(things, caption=caption), random.Random(0))


def test_a_box_stands_right_after_its_noun() -> None:
    assert described(CAT, APPLE) == "a cat [10,20,300,400], an apple [500,500,700,700]."
    assert described() == grounding.describe(Annotation(), random.Random(0)) == ""


def test_an_annotators_sentence_is_kept() -> None:
    caption = "A cat and two dogs on a mat."
    dogs = [Thing("two dogs", Box(1, 2, 3, 4), span=(10, 18)), Thing("two dogs", Box(5, 6, 7, 8), span=(10, 18))]
    said = described(Thing("a cat", Box(10, 20, 300, 400), span=(0, 5)), *dogs, caption=caption)
    assert said == "A cat [10,20,300,400] and two dogs [1,2,3,4] [5,6,7,8] on a mat."
    assert [box.box for box in named_boxes(said, ["two dogs"]) if box.name] == [Box(1, 2, 3, 4), Box(5, 6, 7, 8)]


@pytest.mark.parametrize(
    "left_out",
    [
        Thing("wall", Box(0, 0, 999, 800)),
        Thing("dot", Box(5, 5, 5, 9)),
        Thing("moon", Box(5, 5, 1200, 900)),
        Thing("ghost", Box(5, 5, 50, 90), score=0.1),
        Thing(" ", Box(5, 5, 50, 90)),
        Thing("Cat", Box(10, 20, 300, 401), score=0.9),
    ],
)
def test_filters(left_out: Thing) -> None:
    assert grounding.usable_things(Annotation((left_out, CAT)), min_score=0.3) == (CAT,)


def test_an_image_with_more_than_three_of_one_class_is_left_out() -> None:
    crowd = [Thing("cat", Box(n * 100, 0, n * 100 + 90, 90)) for n in range(4)]
    assert grounding.usable_things(Annotation((*crowd, APPLE))) == ()
    assert grounding.converse(Annotation((*crowd, APPLE)), random.Random(0), ["?"], []) == []
    assert len(grounding.usable_things(Annotation((*crowd[:3], APPLE)))) == 4


def test_questions_both_ways() -> None:
    first, *asked = grounding.converse(SCENE, random.Random(0), ["where?"], ["locate."])
    assert first[0] in ("where?", "locate.")
    assert first[1] == described(CAT, APPLE)
    assert sorted(asked) == [
        ("give the box of the apple.", "[500,500,700,700]"),
        ("give the box of the cat.", "[10,20,300,400]"),
        ("what is in [10,20,300,400]?", "a cat"),
        ("what is in [500,500,700,700]?", "an apple"),
    ]
    twice = Annotation((CAT, Thing("cat", Box(500, 500, 700, 700)), Thing("dog", Box(0, 0, 9, 9))))
    _, *asked = grounding.converse(twice, random.Random(0), ["where?"], [], 9)
    assert [question for question, _ in asked if question.startswith("give")] == ["give the box of the dog."]


def test_what_fills_the_image_makes_its_name_ambiguous() -> None:
    wide = Annotation((CAT, Thing("cat", Box(0, 0, 999, 999))))
    _, *asked = grounding.converse(wide, random.Random(0), ["where?"], [], 9)
    assert asked == [("what is in [10,20,300,400]?", "a cat")]


SIDES = st.tuples(st.integers(-5, 1005), st.integers(-5, 1005))
SCENES = st.lists(
    st.builds(
        lambda x, y, score, name: Thing(name, Box(x[0], y[0], x[1], y[1]), score=score),
        SIDES,
        SIDES,
        st.floats(0, 1),
        st.sampled_from(("cat", "alarm clock", "red apple", "Éclair")),
    ),
    max_size=6,
)


@given(SCENES, st.integers(0, 9), st.integers(0, 9))
def test_what_is_said_reads_back(things: list[Thing], seed: int, number: int) -> None:
    scene = Annotation(tuple(things))
    turns = grounding.converse(scene, random.Random(seed), ["where?"], ["locate."], number)
    assert turns == grounding.converse(scene, random.Random(seed), ["where?"], ["locate."], number)
    usable = grounding.usable_things(scene)
    assert bool(turns) == bool(usable)
    if turns:
        names = {thing.name for thing in usable}
        said = [(name, box) for name, box, _ in named_boxes(turns[0][1], names)]
        assert said == [(thing.name, thing.box) for thing in usable]
        assert len(turns) - 1 <= number
        boxes = {format_box(thing.box) for thing in usable}
        assert all(any(box in question + answer for box in boxes) for question, answer in turns[1:])
