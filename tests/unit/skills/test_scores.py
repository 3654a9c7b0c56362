"""Scores of skills."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vila2_ray.captions.boxes import Box
from vila2_ray.skills import grounding, scores, spatial
from vila2_ray.skills.scores import MAIN, question_accuracy, score
from vila2_ray.skills.things import Annotation, Line, Thing

CAT = Thing("cat", Box(0, 0, 300, 300))
DOG = Thing("Dog", Box(600, 600, 900, 900))
SCENE = Annotation((CAT, DOG), (Line("Stop here", Box(0, 0, 9, 9)),))
BLANK = Annotation((), ())


def relation_scores(text: str, annotation: Annotation = SCENE) -> tuple[float, float]:
    found = score("spatial", [(text, annotation)])
    return found["relation_accuracy"], found["relation_precision"]


@pytest.mark.parametrize(
    ("text", "accuracy", "precision"),
    [
        ("the cat is left of the dog. the dog is below the cat.", 1, 1),
        ("a cat at the top left, a dog at the bottom right.", 1, 1),
        ("the cat is left of the dog.", 0.5, 1),
        ("the cat is left of the dog, and the cat is below the dog", 0.5, 0.5),
        ("the cat is left of the dog. the cat is right of the dog. the dog is below the cat.", 0.5, 2 / 3),
        ("the cat is right of the dog.", 0, 0),
        ("the cat is behind the dog and above the unicorn.", 0, 0),
        ("", 0, 0),
        ("]]]", 0, 0),
    ],
)
def test_relations(text: str, accuracy: float, precision: float) -> None:
    assert relation_scores(text) == (accuracy, pytest.approx(precision))


def test_relations_are_pooled_and_things_named_twice_are_not_asked_for() -> None:
    twice = Annotation((CAT, Thing("cat", Box(600, 0, 900, 300)), DOG))
    found = score("spatial", [("the cat is left of the dog.", SCENE), ("cats.", twice), ("", Annotation())])
    assert found["num_relations"] == 2
    assert found["relation_accuracy"] == 0.5


def test_boxes() -> None:
    said = "a cat [0,0,300,300], a dog [600,600,900,700], a dog [0,0,5,5], a unicorn [1,2,3,4], a dog [5"
    found = score("grounding", [(said, SCENE), ("", SCENE), ("a cat [0,0,9,9]", Annotation())])
    assert found["box_recall_50"] == pytest.approx(1 / 4)
    assert found["box_precision_50"] == pytest.approx(1 / 5)
    assert found["box_mean_iou"] == pytest.approx((1 + 1 / 3) / 2)
    assert (found["num_things"], found["num_boxes_said"]) == (4, 5)


def test_one_box_finds_one_thing() -> None:
    twins = Annotation((CAT, Thing("cat", Box(10, 10, 310, 310))))
    assert score("grounding", [("a cat [0,0,300,300]", twins)])["box_recall_50"] == 0.5
    both = score("grounding", [("a cat [10,10,310,310], a cat [0,0,300,300]", twins)])
    assert (both["box_recall_50"], both["box_mean_iou"]) == (1, 1)


def test_words() -> None:
    said = [
        ("STOP", SCENE),
        ("stop here now!", SCENE),
        ("there is no text.", BLANK),
        ("stop", BLANK),
        ("x", Annotation()),
    ]
    found = score("ocr", said)
    assert found["word_accuracy"] == 0.75
    assert found["word_precision"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert found["character_error_rate"] == pytest.approx((5 / 9 + 4 / 9) / 2)
    assert found["empty_accuracy"] == 0.5
    assert (found["num_images_with_text"], found["num_images_without_text"]) == (2, 2)
    assert score("ocr", [("", SCENE)])["word_accuracy"] == 0


def test_questions_count_in_pairs() -> None:
    answers = [
        (0, "yes", "Yes."),
        (0, "no", "no"),
        (1, "yes", "yes"),
        (1, "no", "yes"),
        (2, "no", ""),
        (2, "yes", "maybe"),
    ]
    found = question_accuracy(answers)
    assert found["question_accuracy"] == pytest.approx(1 / 3)
    assert found["answer_accuracy"] == pytest.approx(1 / 2)
    assert question_accuracy([])["question_accuracy"] == 0


def test_the_main_scores_are_among_the_scores() -> None:
    assert set(MAIN) == {"spatial", "grounding", "ocr"}
    for skill, name in MAIN.items():
        assert score(skill, [])[name] == 0


SIDES = st.tuples(st.integers(0, 998), st.integers(1, 400)).map(lambda pair: (pair[0], min(999, sum(pair))))
SCENES = st.lists(
    st.builds(
        lambda x, y, name: Thing(name, Box(x[0], y[0], x[1], y[1])),
        SIDES,
        SIDES,
        st.sampled_from(("cat", "dog", "red apple")),
    ),
    max_size=4,
).map(lambda things: Annotation(tuple(things)))


@given(st.lists(SCENES, max_size=3))
def test_the_templates_score_full_marks(scenes: list[Annotation]) -> None:
    rng = random.Random(0)
    told = score("spatial", [(spatial.describe(scene, rng), scene) for scene in scenes])
    assert told["relation_accuracy"] == (told["num_relations"] > 0)
    kept = [Annotation(grounding.usable_things(scene)) for scene in scenes]
    boxed = score("grounding", [(grounding.describe(scene, rng), scene) for scene in kept])
    assert boxed["box_recall_50"] == boxed["box_precision_50"] == boxed["box_mean_iou"] == (boxed["num_things"] > 0)


@given(st.lists(st.tuples(st.text(), st.sampled_from((SCENE, BLANK, Annotation()))), max_size=3))
def test_any_text_can_be_scored(said: list[tuple[str, Annotation]]) -> None:
    for skill in MAIN:
        found = score(skill, said)
        assert all(math.isfinite(value) and value >= 0 for value in found.values())
        assert all(value <= 1 for name, value in found.items() if not name.startswith(("num", "character")))
    assert scores.question_accuracy([(0, "yes", text) for text, _ in said])["answer_accuracy"] <= 1
