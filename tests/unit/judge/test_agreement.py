"""Agreement, worked out by hand."""

from __future__ import annotations

import pytest

from tests.unit.judge.voting import pairs, votes
from vila2_ray.judge.agreement import (
    AgainstPeople,
    Agreement,
    Steadiness,
    against_people,
    agreement,
    alpha,
    opinions,
    steadiness,
)

PAIRS = pairs(5)


def test_alpha_by_hand() -> None:
    # 3 a and 3 b; the one mixed unit gives 2 unlike coincidences of 6, chance would give 2 · 3 · 3 / 5
    assert alpha(["aa", "ab", "bb"]) == pytest.approx(1 - 2 / (18 / 5))
    # 3 of 0, 4 of 1, 2 of 2: chance (3·6 + 4·5 + 2·7) / 8
    assert alpha(["00", "01", "111", "22", "5"]) == pytest.approx(1 - 2 / (52 / 8))
    assert alpha(["ab", "ba"]) == pytest.approx(1 - 4 / (8 / 3)), "worse than chance"


def test_alpha_of_krippendorffs_own_example() -> None:
    """Example C of Computing Krippendorff's Alpha-Reliability (2011): four observers, twelve units, values missing."""
    observers = ["123321412   ", "1233224125 3", " 3332342251 ", "12332441251 "]
    units = ["".join(values).replace(" ", "") for values in zip(*observers, strict=True)]
    assert alpha(units) == pytest.approx(0.743, abs=0.0005)


def test_where_nothing_differs_alpha_says_nothing() -> None:
    assert alpha(["aa", "aa"]) is None
    assert alpha([]) is None
    assert alpha(["a", "b"]) is None


def test_people_with_each_other() -> None:
    given = [*votes(PAIRS, "ann", "12=2 "), *votes(PAIRS, "bob", "1121"), *votes(PAIRS, "cat", " 2  1")]
    found = agreement(given, "detail")
    # pairs: 11 · 2 1 2 · = 2 · 2 1 · 1 alone; of three who say 2 1 2 one couple of three agrees
    assert (found.num_pairs, found.num_raters) == (4, 3)
    assert found.share == pytest.approx((1 + 1 / 3 + 0 + 0) / 4)
    assert found.alpha == alpha(["11", "212", "=2", "21"])
    assert agreement(given, "fluency") == Agreement("fluency", 0, 0, None, None)


def test_who_answers_by_place_prefers_neither() -> None:
    given = [*votes(PAIRS, "m", "122"), *votes(PAIRS, "m", "21", swapped=True)]
    found = opinions(given, "detail")
    assert [found[pair.pair_id]["m"] for pair in PAIRS[:3]] == ["tie", "tie", "second"]


def test_a_model_with_itself() -> None:
    # in order    1 2 = 1 2      what stood on the left: yes, no, –, yes
    # swapped     2 2 = =        yes, yes, –, –
    given = [*votes(PAIRS, "m", "12=12"), *votes(PAIRS, "m", "22==", swapped=True), *votes(PAIRS, "n", "1")]
    assert steadiness(given, "detail") == [Steadiness("m", "detail", 4, 2 / 4, 4 / 5)]
    assert steadiness(votes(PAIRS, "m", "11111"), "detail") == [], "one order alone tells nothing"


def test_models_that_only_tie_have_no_side() -> None:
    given = [*votes(PAIRS, "m", "="), *votes(PAIRS, "m", "=", swapped=True)]
    assert steadiness(given, "detail") == [Steadiness("m", "detail", 1, 1.0, None)]


def test_models_with_people() -> None:
    people = [*votes(PAIRS, "ann", "21=12"), *votes(PAIRS, "bob", "22  2"), *votes(PAIRS, "cat", "1   =")]
    # majorities: 2, of two minds, =, 1, 2
    model = [*votes(PAIRS, "m", "2212 "), *votes(PAIRS, "m", "2222 ", swapped=True)]
    # the model: 2, 2, neither, 2
    assert against_people([*people, *model], "detail") == [AgainstPeople("m", "detail", 3, 2 / 3, 2, 1 / 2)]
    assert against_people(model, "detail") == against_people(people, "detail") == []
