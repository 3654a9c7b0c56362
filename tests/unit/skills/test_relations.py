"""Relations between boxes, and statements held against them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vila2_ray.captions.boxes import Box
from vila2_ray.recipes.tiny.world import PLACES, careful_caption, layout
from vila2_ray.skills.relations import (
    RELATIONS,
    Checked,
    Statement,
    camera_relations,
    check_statements,
    clear_statements,
    closest,
    holds,
    implied_statements,
    inverse,
    named_once,
    relations_between,
)
from vila2_ray.skills.things import Thing

CAT = Thing("cat", Box(0, 0, 300, 300))
DOG = Thing("dog", Box(350, 350, 650, 650))
CAR = Thing("car", Box(30, 690, 330, 990))
SIDES = st.tuples(st.integers(0, 998), st.integers(1, 400)).map(lambda pair: (pair[0], min(999, sum(pair))))
THINGS = st.builds(
    lambda x, y, depth, name: Thing(name, Box(x[0], y[0], x[1], y[1]), depth=depth),
    SIDES,
    SIDES,
    st.none() | st.floats(0, 100),
    st.sampled_from("abc"),
)


def test_clear_relations() -> None:
    assert relations_between(CAT, DOG) == ("left of", "above")
    assert relations_between(DOG, CAT) == ("right of", "below")
    assert relations_between(CAT, CAR) == ("above",)
    assert relations_between(CAT, CAT) == ()


def test_between_clearly_so_and_clearly_not_so_nothing_is_said() -> None:
    def beside(shift: int, width: int = 100) -> bool | None:
        return holds(Thing("a", Box(0, 0, width, 9)), "left of", Thing("b", Box(shift, 0, shift + width, 9)))

    assert [beside(shift) for shift in (0, 49, 50, 99, 100)] == [False, False, None, None, True]
    assert beside(100, width=300) is None, "more than half of both is shared"
    wide = Thing("bus", Box(0, 0, 999, 99))
    assert holds(Thing("cat", Box(850, 0, 950, 99)), "right of", wide) is None


def test_depth() -> None:
    near, far, close_by, unknown = (Thing(str(d), Box(0, 0, 9, 9), depth=d) for d in (1.0, 2.0, 1.08, None))
    assert relations_between(near, far) == ("in front of",)
    assert relations_between(far, near) == ("behind",)
    assert holds(near, "in front of", close_by) is None
    assert holds(far, "in front of", near) is False
    assert holds(near, "in front of", unknown) is None
    assert closest([far, near]) is near
    assert closest([close_by, near]) is None
    assert closest([near, unknown]) is None
    assert closest([near]) is None
    zero = Thing("zero", Box(0, 0, 9, 9), depth=0.0)
    assert relations_between(zero, zero) == ()


def test_as_the_camera_sees_it() -> None:
    left, right = Thing("cat", Box(0, 0, 300, 9), depth=1.0), Thing("dog", Box(600, 0, 900, 9), depth=9.0)
    middle = Thing("car", Box(300, 0, 700, 9), depth=5.0)
    things = [left, right, middle]
    assert [camera_relations(thing, things) for thing in things] == [("left", "close"), ("right", "far"), ()]
    assert camera_relations(CAT, [CAT]) == ("left",)
    same = [Thing("a", Box(300, 0, 700, 9), depth=d) for d in (1.0, 1.05)]
    assert camera_relations(same[0], same) == ()


def test_things_named_twice_are_not_spoken_of() -> None:
    twice = [CAT, DOG, Thing("Cat", Box(700, 0, 900, 200))]
    assert named_once(twice) == [DOG]
    assert clear_statements(twice) == []
    assert check_statements([Statement("cat", "left of", "dog")], twice) == Checked(0, 0, 1)


def test_checking() -> None:
    said = [
        Statement("Cat", "left of", "dog"),
        Statement("dog", "above", "cat"),
        Statement("cat", "left of", "car"),
        Statement("cat", "behind", "dog"),
        Statement("cat", "left of", "unicorn"),
    ]
    assert check_statements(said, [CAT, DOG, CAR]) == Checked(1, 2, 2)


@pytest.mark.parametrize("relation", RELATIONS)
@given(one=THINGS, other=THINGS)
def test_the_other_way_round_is_the_inverse(relation: str, one: Thing, other: Thing) -> None:
    assert holds(one, relation, other) == holds(other, inverse(relation), one)
    assert not (holds(one, relation, other) and holds(other, relation, one))


@given(
    st.lists(THINGS, max_size=5), st.lists(st.tuples(*map(st.sampled_from, ("abcd", RELATIONS, "abcd"))), max_size=9)
)
def test_counts_add_up_and_what_is_clear_is_right(things: list[Thing], said: list[tuple]) -> None:
    assert sum(check_statements([Statement(*one) for one in said], things)) == len(said)
    clear = clear_statements(things)
    assert check_statements(clear, things) == Checked(len(clear), 0, 0)
    turned = [statement.turned_round for statement in clear]
    assert check_statements(turned, things) == Checked(len(clear), 0, 0)


def test_a_careful_caption_of_a_scene_implies_its_relations() -> None:
    """Boxes a third of the image wide in the nine places: what places imply is what boxes show."""
    rng = random.Random(5)
    for _ in range(200):
        truth = layout(rng)
        things = []
        for thing in truth["objects"]:
            row, column = divmod(PLACES.index(thing["place"]), 3)
            things.append(Thing(thing["name"], Box(column * 333, row * 333, column * 333 + 333, row * 333 + 333)))
        names = {thing.name for thing in things}
        assert set(clear_statements(things)) == set(implied_statements(careful_caption(truth), names))
