"""How far raters agree: people with each other, a model with itself when the sides are swapped, a model with people.

An opinion is what one rater says of one pair by one criterion. Who judged a pair in both orders and answered otherwise
each time prefers neither: a tie.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vila2_ray.judge.study import Answer, Vote

Opinions = Mapping[str, Mapping[str, Answer]]
"""Pair → rater → answer."""


@dataclass(frozen=True)
class Agreement:
    """Of several raters, by one criterion, on the pairs that at least two of them judged."""

    criterion: str
    num_pairs: int
    num_raters: int
    share: float | None
    """Mean over pairs of the share of two raters who give the same answer; None of no such pair."""
    alpha: float | None
    """Krippendorff's, of nominal values: 0 is chance, 1 is agreement in all; None where all answers are the same."""


@dataclass(frozen=True)
class Steadiness:
    """A rater with itself, by one criterion, on the pairs that it judged in both orders."""

    rater: str
    criterion: str
    num_pairs: int
    same: float | None
    """Share of pairs with the same answer in both orders."""
    left: float | None
    """Share for what stood on the left (was read first), of answers that are no ties: 0.5 is no bias."""


@dataclass(frozen=True)
class AgainstPeople:
    """A model beside what most people say, by one criterion; pairs on which people are of two minds do not count."""

    rater: str
    criterion: str
    num_pairs: int
    same: float | None
    num_decided: int
    """Pairs on which both prefer one of the two."""
    same_decided: float | None
    """Of those the share with the same one: 0.5 is chance."""


def opinions(votes: Iterable[Vote], criterion: str) -> dict[str, dict[str, Answer]]:
    """What each rater says of each pair."""
    given: dict[tuple[str, str], set[Answer]] = {}
    for vote in votes:
        if criterion in vote.answers:
            given.setdefault((vote.pair_id, vote.rater), set()).add(vote.answers[criterion])
    found: dict[str, dict[str, Answer]] = {}
    for (pair_id, rater), answers in given.items():
        found.setdefault(pair_id, {})[rater] = answers.pop() if len(answers) == 1 else "tie"
    return found


def agreement(votes: Sequence[Vote], criterion: str) -> Agreement:
    """Of all raters of these votes."""
    shared = [by_rater for by_rater in opinions(votes, criterion).values() if len(by_rater) > 1]
    units, raters = [list(by_rater.values()) for by_rater in shared], {name for by_rater in shared for name in by_rater}
    shares = [_share_alike(unit) for unit in units]
    return Agreement(criterion, len(units), len(raters), _mean(shares), alpha(units))


def alpha(units: Iterable[Sequence[str]]) -> float | None:
    """Krippendorff's α of nominal values, each unit being the values that its raters gave; units of one do not count.

    α = 1 − observed ÷ expected disagreement, from the coincidences of values within units (Krippendorff, Computing
    Krippendorff's Alpha-Reliability, 2011). None where nothing differs and nothing could.
    """
    totals: Counter[str] = Counter()
    observed = 0.0
    for unit in units:
        if (size := len(unit)) > 1:
            counts = Counter(unit)
            totals.update(counts)
            observed += sum(count * (size - count) for count in counts.values()) / (size - 1)
    num_values = sum(totals.values())
    expected = sum(count * (num_values - count) for count in totals.values())
    return 1 - (num_values - 1) * observed / expected if expected else None


def steadiness(votes: Sequence[Vote], criterion: str) -> list[Steadiness]:
    """Of each rater that judged any pair in both orders, by name."""
    both: dict[str, dict[str, dict[bool, Answer]]] = {}
    for vote in votes:
        if criterion in vote.answers:
            both.setdefault(vote.rater, {}).setdefault(vote.pair_id, {})[vote.swapped] = vote.answers[criterion]
    found = []
    for rater, by_pair in sorted(both.items()):
        twice = [answers for answers in by_pair.values() if len(answers) == 2]
        if twice:
            same = [answers[False] == answers[True] for answers in twice]
            lefts = [
                answer == ("second" if swapped else "first")
                for answers in twice
                for swapped, answer in answers.items()
                if answer != "tie"
            ]
            found.append(Steadiness(rater, criterion, len(twice), _mean(same), _mean(lefts)))
    return found


def against_people(votes: Sequence[Vote], criterion: str) -> list[AgainstPeople]:
    """Each model beside the people's majority, by name; nothing where no person judged what a model did."""
    majority = {
        pair_id: answer
        for pair_id, by_rater in opinions((v for v in votes if v.kind == "person"), criterion).items()
        if (answer := _majority(by_rater.values())) is not None
    }
    by_model: dict[str, list[tuple[Answer, Answer]]] = {}
    for pair_id, by_rater in opinions((v for v in votes if v.kind == "model"), criterion).items():
        if pair_id in majority:
            for rater, answer in by_rater.items():
                by_model.setdefault(rater, []).append((answer, majority[pair_id]))
    found = []
    for rater, answers in sorted(by_model.items()):
        decided = [mine == theirs for mine, theirs in answers if "tie" not in (mine, theirs)]
        same = [mine == theirs for mine, theirs in answers]
        found.append(AgainstPeople(rater, criterion, len(answers), _mean(same), len(decided), _mean(decided)))
    return found


def _majority(answers: Iterable[Answer]) -> Answer | None:
    """What more say than anything else."""
    foremost = Counter(answers).most_common(2)
    if len(foremost) == 2 and foremost[0][1] == foremost[1][1]:
        return None
    return foremost[0][0]


def _share_alike(unit: Sequence[str]) -> float:
    size = len(unit)
    return sum(count * (count - 1) for count in Counter(unit).values()) / (size * (size - 1))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
