"""Descriptions and questions about where things are."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from vila2_ray.captions.boxes import Box
from vila2_ray.skills import spatial
from vila2_ray.skills.relations import check_statements, parse_statements
from vila2_ray.skills.things import Annotation, Thing

CAT = Thing("cat", Box(0, 0, 300, 300))
DOG = Thing("dog", Box(350, 350, 650, 650))
CAR = Thing("red car", Box(30, 690, 330, 990))
SCENE = Annotation((CAT, DOG, CAR))
PROMPTS, QUESTIONS = ("how are things placed?",), ("where is what?", "what is the layout?")


def test_a_description_says_every_clear_relation() -> None:
    assert spatial.describe(SCENE, random.Random(0)) == (
        "the cat is left of the dog. the cat is above the dog. the cat is above the red car. "
        "the dog is right of the red car. the dog is above the red car."
    )


def test_a_thing_alone_is_placed_as_the_camera_sees_it() -> None:
    assert spatial.describe(Annotation((CAT,)), random.Random(0)) == "the cat is on the left."
    assert spatial.converse(Annotation((CAT,)), random.Random(0), PROMPTS, ())[1:] in (
        [("is the cat on the left?", "yes"), ("is the cat on the right?", "no")],
        [("is the cat on the right?", "no"), ("is the cat on the left?", "yes")],
    )


def test_depth() -> None:
    near, far = Thing("cat", Box(0, 0, 400, 9), depth=1.0), Thing("dog", Box(50, 0, 450, 9), depth=4.0)
    assert spatial.describe(Annotation((near, far)), random.Random(0)) == (
        "the cat is in front of the dog. the cat is close. the dog is far away. the closest thing is the cat."
    )
    asked = dict(spatial.converse(Annotation((near, far)), random.Random(0), PROMPTS, QUESTIONS, 99)[1:])
    assert asked["what is closest?"] == "the cat"
    assert asked["what is behind the cat?"] == "the dog"
    assert asked["where is the dog from the cat?"] == "behind"
    assert asked["is the dog far away?"] == "yes"
    assert asked["is the dog close?"] == "no"


def test_nothing_to_learn_gives_no_conversation() -> None:
    twice = Annotation((CAT, Thing("cat", Box(500, 500, 900, 900))))
    for annotation in (Annotation(), Annotation(()), twice, Annotation((DOG,))):
        assert spatial.describe(annotation, random.Random(0)) == ""
        assert spatial.converse(annotation, random.Random(0), PROMPTS, QUESTIONS) == []


def test_descriptions_are_asked_for_by_prompts_and_questions_alike() -> None:
    asked = Counter(spatial.converse(SCENE, random.Random(seed), PROMPTS, QUESTIONS)[0][0] for seed in range(60))
    assert set(asked) == {*PROMPTS, *QUESTIONS}


def test_an_open_question_has_one_answer() -> None:
    crowd = Annotation((CAT, Thing("bird", Box(0, 400, 300, 600)), Thing("bus", Box(700, 0, 950, 300))))
    for seed in range(20):
        asked = dict(spatial.converse(crowd, random.Random(seed), PROMPTS, QUESTIONS, 99)[1:])
        assert "what is left of the bus?" not in asked, "the cat and the bird both are"
        assert asked["what is below the cat?"] == "the bird"
        assert asked["where is the bird from the bus?"] == "left and below"


def test_a_crowd_is_cut_to_a_number_of_pairs() -> None:
    crowd = Annotation(tuple(Thing(f"thing{n}", Box(n * 110, n * 110, n * 110 + 99, n * 110 + 99)) for n in range(9)))
    said = parse_statements(spatial.describe(crowd, random.Random(0)), [thing.name for thing in crowd.things or ()])
    assert len({(one, other) for one, _, other in said}) == spatial.MAX_PAIRS


SIDES = st.tuples(st.integers(0, 998), st.integers(1, 400)).map(lambda pair: (pair[0], min(999, sum(pair))))
SCENES = st.lists(
    st.builds(
        lambda x, y, depth, name: Thing(name, Box(x[0], y[0], x[1], y[1]), depth=depth),
        SIDES,
        SIDES,
        st.none() | st.floats(0, 100),
        st.sampled_from(("cat", "dog", "car", "red apple", "soccer ball")),
    ),
    max_size=6,
).map(lambda things: Annotation(tuple(things)))


@given(SCENES, st.integers(0, 9), st.integers(0, 9))
def test_what_is_said_is_true_and_yes_as_frequent_as_no(scene: Annotation, seed: int, number: int) -> None:
    turns = spatial.converse(scene, random.Random(seed), PROMPTS, QUESTIONS, number)
    assert turns == spatial.converse(scene, random.Random(seed), PROMPTS, QUESTIONS, number)
    if not turns:
        return
    things = scene.things or ()
    names = [thing.name for thing in things]
    checked = check_statements(parse_statements(turns[0][1], names), things)
    assert checked.num_wrong == checked.num_unknown == 0
    answers = Counter(answer for _, answer in turns[1:])
    assert answers["yes"] == answers["no"]
    assert len(turns) - 1 <= number
    for question, answer in turns[1:]:
        asked = parse_statements(question, names) if answer in ("yes", "no") else []
        assert check_statements(asked, things).num_right == len(asked) * (answer == "yes")


def test_pairs_for_evaluation_are_one_yes_and_one_no() -> None:
    pairs = spatial.question_pairs(SCENE, random.Random(1))
    assert len(pairs) == 5
    for (first, yes), (second, no) in pairs:
        assert (yes, no) == ("yes", "no")
        one, other = first.removeprefix("is the ").removesuffix("?"), second.removeprefix("is the ").removesuffix("?")
        assert sorted(one.split()) == sorted(other.split())
    assert len(spatial.question_pairs(SCENE, random.Random(1), 2)) == 2
