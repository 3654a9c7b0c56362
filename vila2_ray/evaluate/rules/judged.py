"""Open answers that a judge scores: MM-Vet (arXiv 2308.02490), or a user's own questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from vila2_ray.evaluate.items import Item
from vila2_ray.evaluate.rules.tally import Rule, Tally, accuracies, counted

AT_ONCE = 8
"""Answers that are judged at the same time."""


class Judge(Protocol):
    """Says how right an answer is."""

    def __call__(self, question: str, truth: str, answer: str) -> float:
        """From 0 (wrong) to 1 (right). Asked by several threads. Raises StageFailed where it cannot tell."""


Together = Callable[[Sequence[tuple[str, str, str]]], list[float]]
"""A judge of many: (question, truth, answer) → score, each from 0 to 1. Raises StageFailed."""


def judged_by(judge: Judge) -> Rule:
    """The mean of what the judge says, in all and by group; what was not answered is wrong without being judged."""

    def together(asked: Sequence[tuple[str, str, str]]) -> list[float]:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(lambda each: judge(*each), asked))

    return judged_together(together)


def judged_together(judge: Together) -> Rule:
    """The same by a judge that is asked for all answers at once."""

    def judged(items: Sequence[Item], said: Sequence[str | None]) -> list[Tally]:
        asked = [
            (item.question or item.prompt, "<OR>".join(item.answers), text)
            for item, text in zip(items, said, strict=True)
            if text
        ]
        scores = iter(judge(asked))
        found = [next(scores) if text else 0.0 for text in said]
        return [counted(item, score) for item, score in zip(items, found, strict=True)]

    return Rule("score", judged, lambda sums: accuracies(sums, "score"))
