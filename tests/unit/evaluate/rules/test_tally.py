"""Scores from sums, and their bootstrap intervals."""

from __future__ import annotations

import math

import pytest

from vila2_ray.evaluate.items import Item
from vila2_ray.evaluate.rules.tally import Rule, accuracies, counted, estimate, slug

RULE = Rule("accuracy", lambda items, said: [], accuracies)


def estimated(right: list[bool], clusters: list[str], groups: list[str] | None = None, seed: int = 0):
    items = [
        Item(str(n), (), "", groups=(groups[n],) if groups else (), cluster=cluster)
        for n, cluster in enumerate(clusters)
    ]
    return estimate(RULE, items, [counted(item, float(ok)) for item, ok in zip(items, right, strict=True)], seed)


def test_an_interval_is_as_wide_as_theory_says() -> None:
    value, low, high = estimated([True] * 120 + [False] * 80, [""] * 200)["accuracy"]
    assert value == 0.6
    half = 1.96 * math.sqrt(0.6 * 0.4 / 200)
    assert low == pytest.approx(0.6 - half, abs=0.015)
    assert high == pytest.approx(0.6 + half, abs=0.015)


def test_questions_of_one_image_are_drawn_together() -> None:
    right = [n % 10 < 6 for n in range(200) for _ in range(5)]
    alone = estimated(right, [""] * 1000)["accuracy"]
    together = estimated(right, [str(n // 5) for n in range(1000)])["accuracy"]
    assert together.value == alone.value == 0.6
    assert (together.high - together.low) / (alone.high - alone.low) == pytest.approx(math.sqrt(5), rel=0.2)


def test_the_same_seed_gives_the_same_interval() -> None:
    right = [n % 3 > 0 for n in range(50)]
    assert estimated(right, [""] * 50) == estimated(right, [""] * 50)
    assert estimated(right, [""] * 50) != estimated(right, [""] * 50, seed=1)


def test_a_group_that_a_resample_misses_has_an_interval_all_the_same() -> None:
    found = estimated([True, False, True], ["a", "b", "c"], ["x", "x", "y"])
    assert found["accuracy_x"].value == 0.5
    assert found["accuracy_y"] == (1.0, 1.0, 1.0)


def test_one_question_varies_by_nothing() -> None:
    assert estimated([True], ["a"])["accuracy"] == (1.0, 1.0, 1.0)


def test_names_of_groups() -> None:
    assert [slug(name) for name in ("yes/no", "Scene Understanding", " a--b ")] == [
        "yes_no",
        "scene_understanding",
        "a_b",
    ]
