"""Win rates, worked out by hand."""

from __future__ import annotations

import math

import pytest

from tests.unit.judge.voting import pairs, votes
from vila2_ray.evaluate.items import Item
from vila2_ray.evaluate.rules.tally import Rule, estimate, ratio
from vila2_ray.judge.study import Vote
from vila2_ray.judge.winning import WinRate, figures, win_rate

PAIRS = pairs(4)


def rated(given: list[Vote], num_equal: int = 0, number: int = 4) -> WinRate:
    found = win_rate(pairs(number), given, "detail", "people", num_equal, 0)
    assert found is not None
    return found


def test_an_image_counts_once() -> None:
    found = rated([*votes(PAIRS, "ann", "21="), *votes(PAIRS, "bob", "22")])
    # image 0: second · image 1: half and half · image 2: tie
    assert (found.first_wins, found.second_wins, found.ties) == (0.5, 1.5, 1.0)
    assert found.rate.value == pytest.approx((1.5 + 1.0 / 2) / 3)
    assert found.rate_without_ties.value == pytest.approx(1.5 / 2)
    assert (found.num_images, found.num_votes, found.num_raters, found.num_equal) == (3, 5, 2, 0)
    assert (found.first, found.second, found.criterion, found.judge) == ("alt_text", "round-1", "detail", "people")


def test_a_rater_with_two_orders_weighs_as_much_as_one_with_one() -> None:
    found = rated([*votes(PAIRS, "m", "2"), *votes(PAIRS, "m", "2", swapped=True), *votes(PAIRS, "n", "1")])
    assert (found.first_wins, found.second_wins) == (0.5, 0.5)


def test_who_goes_by_the_place_comes_out_even() -> None:
    found = rated([*votes(PAIRS, "m", "1111"), *votes(PAIRS, "m", "2222", swapped=True)])
    assert found.rate == pytest.approx((0.5, 0.150, 0.850), abs=1e-3), "Wilson's for 2 of 4: no resample differs"
    assert (found.num_images, found.num_votes, found.num_raters) == (4, 8, 1)


def test_equal_texts_are_ties_as_far_as_the_others_are_judged() -> None:
    whole = rated(votes(PAIRS, "ann", "2221"), num_equal=4)
    assert (whole.num_equal, whole.ties) == (4, 4.0)
    assert whole.rate.value == pytest.approx((3 + 4 / 2) / 8)
    assert whole.rate_without_ties.value == pytest.approx(3 / 4)
    half = rated(votes(PAIRS, "ann", "22"), num_equal=4)
    assert (half.num_equal, half.rate.value) == (2, pytest.approx((2 + 2 / 2) / 4))


def test_where_nobody_wins_the_rate_without_ties_is_unknown() -> None:
    found = rated(votes(PAIRS, "ann", "=="))
    assert found.rate == pytest.approx((0.5, 0.0945, 0.9055), abs=1e-3)
    assert all(math.isnan(number) for number in found.rate_without_ties)
    assert win_rate(PAIRS, votes(PAIRS, "ann", "=="), "fluency", "people", 0, 0) is None


def test_intervals_are_of_images_not_of_votes() -> None:
    many = pairs(100)
    alone = rated(votes(many, "ann", "2" * 70 + "1" * 30), number=100)
    # √(0.7 · 0.3 / 100) = 0.0458; 1.96 of it on either side
    assert alone.rate.value == pytest.approx(0.7)
    assert (alone.rate.low, alone.rate.high) == (pytest.approx(0.61, abs=0.015), pytest.approx(0.79, abs=0.015))
    ten = [vote for rater in range(10) for vote in votes(many, f"r{rater}", "2" * 7 + "1" * 3)]
    assert rated(ten, number=100).rate.high - rated(ten, number=100).rate.low > 0.4, "100 votes, but 10 images"
    assert rated(ten, number=100) == rated(ten, number=100), "the same resamples every time"


def test_intervals_agree_with_those_of_benchmarks() -> None:
    many, said = pairs(60), "2" * 25 + "1" * 15 + "=" * 20
    items = [Item(str(n), (), "") for n in range(60)]
    tallies = [{"right": {"2": 1.0, "1": 0.0, "=": 0.5}[answer], "num": 1.0} for answer in said]
    rule = Rule("rate", lambda items, said: [], lambda sums: {"rate": ratio(sums["right"], sums["num"])})
    theirs = estimate(rule, items, tallies, 0)["rate"]
    ours = rated(votes(many, "ann", said), number=60).rate
    assert tuple(ours) == pytest.approx(tuple(theirs), abs=0.02)


def test_a_whole_study() -> None:
    later = pairs(4, "round-1", "round-2")
    mixed = [pair for both in zip(PAIRS, later, strict=True) for pair in both]
    given = [*votes(PAIRS, "ann", "2222"), *votes(PAIRS, "bob", "2=21"), *votes(later, "ann", "12")]
    given += [
        *votes(PAIRS, "model:a", "22"),
        *votes(PAIRS, "model:a", "21", swapped=True),
        *votes(later, "model:b", "1"),
    ]
    given += [Vote(later[3].pair_id, "ann", "person", False, {}, 1.0)]
    given += [Vote(later[3].pair_id, "model:b", "model", False, {}, 1.0, problem="no JSON")]
    given += [Vote("f9", "ann", "person", False, {"detail": "first"}, 1.0)]
    equal = {"round-1:round-2": 0, "alt_text:round-1": 4}
    found = figures(mixed, given, ["detail", "overall"], equal)
    assert [(rate.first, rate.judge, rate.second_wins) for rate in found.rates] == [
        ("round-1", "people", 1.0),
        ("round-1", "model:b", 0.0),
        ("alt_text", "people", 3.0),
        ("alt_text", "model:a", 1.0),  # of the other it says one thing each way
    ]
    assert (found.num_pairs, found.num_passed_over, found.num_problems) == (8, 1, 1)
    (people,) = found.agreement
    assert (people.num_pairs, people.num_raters, people.share) == (4, 2, 0.5)
    assert [(row.rater, row.num_pairs, row.same) for row in found.steadiness] == [("model:a", 2, 0.5)]
    assert [(row.rater, row.num_pairs) for row in found.against_people] == [("model:a", 1), ("model:b", 1)]


def test_a_study_that_nobody_has_judged() -> None:
    found = figures(PAIRS, [], ["detail"], {"alt_text:round-1": 2})
    assert (found.rates, found.agreement, found.steadiness, found.against_people) == ((), (), (), ())
