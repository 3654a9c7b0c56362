"""Which layer wins: rates with bootstrap intervals, for people together and for each model alone.

An image counts once, whatever number judged it: its raters are averaged. Who answers otherwise when the sides are
swapped prefers neither (`judge.agreement`): a model that goes by the place alone comes to ties. Images on which both
layers say the same were not asked; they enter as ties, in that share of them which the judged images have of the asked
ones.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vila2_ray.evaluate.rules.tally import RESAMPLES, Estimate, middle, ratio
from vila2_ray.judge.agreement import (
    AgainstPeople,
    Agreement,
    Steadiness,
    against_people,
    agreement,
    opinions,
    steadiness,
)
from vila2_ray.judge.pairs import Couple, couple_name
from vila2_ray.judge.study import ANSWERS, Answer, Pair, Study, Vote

PEOPLE = "people"


@dataclass(frozen=True)
class WinRate:
    """Of `second` against `first`, by one criterion, as `judge` sees it."""

    first: str
    second: str
    criterion: str
    judge: str
    """`people`, or a model's name as a rater."""
    num_images: int
    """Judged ones."""
    num_equal: int
    """Not asked: ties."""
    num_votes: int
    num_raters: int
    first_wins: float
    second_wins: float
    ties: float
    """Images, each shared out by what was said of it; together `num_images` + `num_equal`."""
    rate: Estimate
    """Share of the images that `second` wins, ties half."""
    rate_without_ties: Estimate
    """Share of the wins that are `second`'s; not a number where nobody wins."""


@dataclass(frozen=True)
class Figures:
    """What a study has found so far."""

    criteria: tuple[str, ...]
    num_pairs: int
    num_equal: Mapping[str, int]
    """`first:second` → images that were not asked."""
    num_passed_over: int
    """Votes without an answer, by choice."""
    num_problems: int
    """Votes without an answer, for a reason that is kept with them."""
    rates: tuple[WinRate, ...]
    """By couple, then judge, then criterion."""
    agreement: tuple[Agreement, ...]
    """Of people, by criterion; only where several judged the same pairs."""
    steadiness: tuple[Steadiness, ...]
    against_people: tuple[AgainstPeople, ...]


def figures_of(study: Study) -> Figures:
    """All figures of a study as it is now: reads every vote. Raises ConfigError where there is no such study."""
    told = study.told()
    drawn_by = told["drawn_by"]
    equal = {couple: drawn_by.get("equal", {}).get(couple, 0) for couple in drawn_by.get("couples", ())}
    return figures(study.pairs(), study.votes(), told["criteria"], equal)


def figures(
    pairs: Sequence[Pair], votes: Sequence[Vote], criteria: Sequence[str], equal: Mapping[str, int], seed: int = 0
) -> Figures:
    """All figures of a study; votes on other pairs do not count."""
    known = {pair.pair_id for pair in pairs}
    votes = [vote for vote in votes if vote.pair_id in known]
    people = [vote for vote in votes if vote.kind == "person"]
    of_models = [vote for vote in votes if vote.kind == "model"]
    models = sorted({vote.rater for vote in of_models})
    judges = {PEOPLE: people} | {name: [vote for vote in of_models if vote.rater == name] for name in models}
    by_couple: dict[Couple, list[Pair]] = {}
    for pair in pairs:
        by_couple.setdefault((pair.first.layer, pair.second.layer), []).append(pair)
    rates = [
        rate
        for couple, some in sorted(by_couple.items(), key=lambda entry: _place(entry[0], equal))
        for judge, found in judges.items()
        for criterion in criteria
        if (rate := win_rate(some, found, criterion, judge, equal.get(couple_name(couple), 0), seed)) is not None
    ]
    silent = [vote for vote in votes if not vote.answers]
    agreements = [agreement(people, criterion) for criterion in criteria]
    return Figures(
        criteria=tuple(criteria),
        num_pairs=len(pairs),
        num_equal=dict(equal),
        num_passed_over=sum(not vote.problem for vote in silent),
        num_problems=sum(bool(vote.problem) for vote in silent),
        rates=tuple(rates),
        agreement=tuple(found for found in agreements if found.num_pairs),
        steadiness=tuple(found for criterion in criteria for found in steadiness(of_models, criterion)),
        against_people=tuple(found for criterion in criteria for found in against_people(votes, criterion)),
    )


def win_rate(
    pairs: Sequence[Pair], votes: Sequence[Vote], criterion: str, judge: str, num_equal: int, seed: int
) -> WinRate | None:
    """Of the pairs of one couple of layers; None where nobody answered."""
    asked = {pair.pair_id: pair for pair in pairs}
    given = [vote for vote in votes if vote.pair_id in asked and criterion in vote.answers]
    if not given:
        return None
    heard = opinions(given, criterion)
    shares = np.array([_shares(by_rater.values()) for by_rater in heard.values()])
    equal = round(num_equal * len(shares) / len(pairs))
    images = np.concatenate([shares, np.tile(_shares(["tie"]), (equal, 1))])  # [K, 3], in the order of ANSWERS
    whole, drawn = images.sum(axis=0), _resampled(images, seed)
    return WinRate(
        first=pairs[0].first.layer,
        second=pairs[0].second.layer,
        criterion=criterion,
        judge=judge,
        num_images=len(shares),
        num_equal=equal,
        num_votes=len(given),
        num_raters=len({vote.rater for vote in given}),
        first_wins=float(whole[0]),
        second_wins=float(whole[1]),
        ties=float(whole[2]),
        rate=_estimate((whole @ _HALF) / whole.sum(), (drawn @ _HALF) / drawn.sum(axis=1), whole.sum()),
        rate_without_ties=_estimate(_decided(whole[None])[0], _decided(drawn), whole[0] + whole[1]),
    )


_Z = 1.959964
"""Of the normal distribution's middle 95 %."""
_HALF = np.array([0.0, 1.0, 0.5])
"""What an answer is worth to the second one, in the order of ANSWERS."""


def _shares(said: Collection[Answer]) -> np.ndarray:
    """Of an image's answers, in the order of ANSWERS."""
    places = [ANSWERS.index(answer) for answer in said]
    return np.bincount(places, minlength=len(ANSWERS)) / len(places)


def _resampled(images: np.ndarray, seed: int) -> np.ndarray:
    """Sums over images drawn with replacement: [RESAMPLES, 3]."""
    kinds, counts = np.unique(images, axis=0, return_counts=True)  # few: drawing kinds is drawing images
    random = np.random.default_rng(seed)
    return random.multinomial(len(images), counts / len(images), RESAMPLES) @ kinds


def _decided(sums: np.ndarray) -> np.ndarray:
    return ratio(sums[:, 1], sums[:, 0] + sums[:, 1])


def _estimate(value: float, varied: np.ndarray, num: float) -> Estimate:
    """With the bootstrap's interval; where all images say the same, which resamples cannot doubt, with Wilson's."""
    known = varied[~np.isnan(varied)]
    if known.size and known.min() == known.max():
        return Estimate(float(value), *_wilson(float(value), float(num)))
    return Estimate(float(value), *middle(varied))


def _wilson(share: float, num: float) -> tuple[float, float]:
    """95 % score interval of a share of `num` (Wilson, 1927)."""
    middle_of, width = share + _Z**2 / (2 * num), _Z * math.sqrt(share * (1 - share) / num + _Z**2 / (4 * num**2))
    return (middle_of - width) / (1 + _Z**2 / num), (middle_of + width) / (1 + _Z**2 / num)


def _place(couple: Couple, equal: Mapping[str, int]) -> int:
    """In the order in which couples were drawn."""
    names = list(equal)
    return names.index(couple_name(couple)) if couple_name(couple) in names else len(names)
