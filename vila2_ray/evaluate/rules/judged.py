"""Open answers that a judge scores: MM-Vet (arXiv 2308.02490), or a user's own questions."""

from __future__ import annotations

from collections.abc import Sequence
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


def judged_by(judge: Judge) -> Rule:
    """The mean of what the judge says, in all and by group; what was not answered is wrong without being judged."""

    def judged(items: Sequence[Item], said: Sequence[str | None]) -> list[Tally]:
        def ask(item: Item, text: str | None) -> float:
            return judge(item.question or item.prompt, "<OR>".join(item.answers), text) if text else 0.0

        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = list(pool.map(ask, items, said))
        return [counted(item, score) for item, score in zip(items, found, strict=True)]

    return Rule("score", judged, lambda sums: accuracies(sums, "score"))
