"""Relations read from sentences, stated and implied."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vila2_ray.skills.statements import (
    RELATIONS,
    Statement,
    implied_statements,
    inverse,
    noun_phrases,
    parse_statements,
    states_where,
)

NAMES = ("cat", "dog", "car", "red apple", "apple", "camera")


def read(text: str, names: tuple[str, ...] | None = NAMES) -> list[str]:
    return [" ".join(statement) for statement in parse_statements(text, names)]


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("the cat is left of the dog. the dog is below the car.", ["cat left of dog", "dog below car"]),
        ("The Cat sits to the left of a big Dog!", ["cat left of dog"]),
        ("A cat is on the right-hand side of the red apple.", ["cat right of red apple"]),
        ("a cat, sitting at the top left, is over the small dog", ["cat above dog"]),
        ("the cat [1,2,3,4] is underneath the car [5,6,7,8]", ["cat below car"]),
        ("the cat is above and to the left of the dog", ["cat above dog", "cat left of dog"]),
        ("the cat is to the left and above the dog", ["cat left of dog", "cat above dog"]),
        ("a cat at the top left and above the dog", []),
        ("the cat is left of the dog and above the car", ["cat left of dog", "cat above car"]),
        ("the cat is left of the dog and the dog is above the car", ["cat left of dog", "dog above car"]),
        ("the cat is left of the dog, which is above the car", ["cat left of dog", "dog above car"]),
        ("the cat is right behind the car", ["cat behind car"]),
        ("the cat is closer to the camera than the dog", ["cat in front of dog"]),
        ("behind the car there is a tall dog", ["dog behind car"]),
        ("To the left of the dog is a cat.", ["cat left of dog"]),
        ("a dog is at the center, and behind the car stands a cat", ["cat behind car"]),
        ("the cat and the dog are above the car", ["cat above car", "dog above car"]),
        ("the cat is in front of the dog and the car", ["cat in front of dog", "cat in front of car"]),
    ],
)
def test_what_sentences_state(text: str, stated: list[str]) -> None:
    assert read(text) == stated


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a cat at the top left, a dog at the center.",
        "the cat is not left of the dog",
        "the cat isn't behind the dog",
        "the cat is left of the unicorn near the dog",
        "the cat and a unicorn left of the dog",
        "the cat is at the left of the picture, the dog at the right",
        "the cat looks over its shoulder; a dog",
        "there is no cat. left of the dog.",
        "the cat is left of the cat",
        "left of right of above",
    ],
)
def test_what_they_do_not_state(text: str) -> None:
    assert read(text) == []


def test_without_names_things_are_what_articles_stand_before() -> None:
    text = "A tall pine tree is left of the garden shed. the shed is below the small moon."
    assert noun_phrases(text) == ["tall pine tree", "garden shed", "shed", "small moon"]
    assert read(text, None) == ["tall pine tree left of garden shed", "shed below small moon"]


def test_what_places_imply() -> None:
    text = "a large cat at the top left, a small dog at the center. a car in the lower-right corner."
    implied = implied_statements(text, NAMES)
    assert implied[:2] == [Statement("cat", "left of", "dog"), Statement("cat", "above", "dog")]
    assert len(implied) == 6
    assert implied_statements("a cat at the left, a cat at the top, a dog at the right", NAMES) == []
    assert implied_statements("a cat and a dog", NAMES) == []
    assert implied_statements("a cat on the left hand side of a dog, which is at the right", NAMES) == []


def test_inverse() -> None:
    for relation in RELATIONS:
        assert inverse(inverse(relation)) == relation != inverse(relation)
    statement = Statement("cat", "above", "dog")
    assert statement.turned_round == Statement("dog", "below", "cat")
    assert statement.turned_round.turned_round == statement


def test_whether_a_text_tells_where() -> None:
    assert states_where("a tree behind the house")
    assert states_where("the cat is on the left.")
    assert not states_where("a cat and a dog")
    assert not states_where("he left. it is overcast.")


PIECES = st.lists(
    st.sampled_from([*NAMES, *RELATIONS, "the", "a", "is", "are", "and", "not", ",", ".", "there", "İ", "[1,2"]),
    max_size=20,
)


@given(st.one_of(st.text(), PIECES.map(" ".join)))
def test_any_text_can_be_read(text: str) -> None:
    for names in (None, (), NAMES):
        for one, relation, other in parse_statements(text, names):
            assert one != other
            assert relation in RELATIONS
    implied_statements(text, NAMES)
    states_where(text)


@given(st.sampled_from(NAMES), st.sampled_from(RELATIONS), st.sampled_from(NAMES))
def test_the_template_reads_back(one: str, relation: str, other: str) -> None:
    expected = [] if one == other else [f"{one} {relation} {other}"]
    assert read(f"the {one} is {relation} the {other}.") == expected
    assert read(f"the {one} is {relation} the {other}.", None) == expected
