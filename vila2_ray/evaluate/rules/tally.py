"""Counts per item, scores from their sums, and how far the scores would vary with other items.

Every score is a function of sums over items (`right` ÷ `num`, or an F1 of three counts), so that a resample of the
items is a weighted sum, whatever the score.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vila2_ray.evaluate.items import Item

RESAMPLES = 1000
Tally = dict[str, float]
"""What one item adds to each sum; a sum of a group's items is called `<sum>|<group>`."""
Sums = Mapping[str, np.ndarray]
"""Each sum, once per resample: [B]."""
Scores = dict[str, np.ndarray]


class Rule(NamedTuple):
    """How a benchmark is scored."""

    main: str
    """The score that it is known by."""
    judge: Callable[[Sequence[Item], Sequence[str | None]], list[Tally]]
    """A tally for each item, from what was said of it (None: nothing, which is never right). `score` is the item's."""
    scores: Callable[[Sums], Scores]


class Estimate(NamedTuple):
    """A score, and the interval that holds 95 % of its bootstrap resamples."""

    value: float
    low: float
    high: float


def counted(item: Item, score: float, **more: float) -> Tally:
    """The tally of an item that counts once: its score, in all and by group."""
    tally = {"score": score, "right": score, "num": 1.0, **more}
    for group in item.groups:
        tally |= {f"right|{group}": score, f"num|{group}": 1.0}
    return tally


def accuracies(sums: Sums, name: str = "accuracy", right: str = "right", num: str = "num") -> Scores:
    """`name` over all items and `name_<group>` over each group's."""
    found = {name: ratio(sums[right], sums[num])}
    for column in sorted(sums):
        if column.startswith(f"{num}|"):
            group = column.partition("|")[2]
            found[f"{name}_{slug(group)}"] = ratio(sums[f"{right}|{group}"], sums[column])
    return found


def ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    """Not a number where there is nothing to divide by."""
    return np.divide(over, under, out=np.full(np.shape(under), np.nan), where=under != 0)


def slug(group: str) -> str:
    """A group's name as part of a score's."""
    return re.sub(r"[^a-z0-9]+", "_", group.lower()).strip("_")


def estimate(rule: Rule, items: Sequence[Item], tallies: Sequence[Tally], seed: int) -> dict[str, Estimate]:
    """Every score with its interval: clusters of items are drawn with replacement, `RESAMPLES` times."""
    names = sorted({name for tally in tallies for name in tally if name != "score"})
    number = {cluster: k for k, cluster in enumerate(dict.fromkeys(item.drawn_with for item in items))}
    column = {name: c for c, name in enumerate(names)}
    sums = np.zeros((len(number), len(names)))  # [K, C]
    for item, tally in zip(items, tallies, strict=True):
        for name, value in tally.items():
            if name != "score":
                sums[number[item.drawn_with], column[name]] += value
    whole = sums.sum(axis=0)
    random, size = np.random.default_rng(seed), len(number)
    drawn = np.stack(
        [np.bincount(random.integers(0, size, size), minlength=size) @ sums for _ in range(RESAMPLES)]
    )  # [B, C]
    values = rule.scores({name: whole[None, c] for name, c in column.items()})
    varied = rule.scores({name: drawn[:, c] for name, c in column.items()})
    return {name: Estimate(float(value[0]), *middle(varied[name])) for name, value in values.items()}


def middle(values: np.ndarray) -> tuple[float, float]:
    """The interval that holds 95 % of the values that are numbers; not numbers where none is."""
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.percentile(known, (2.5, 97.5))
    return float(low), float(high)
