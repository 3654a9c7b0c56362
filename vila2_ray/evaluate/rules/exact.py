"""One right answer: what GQA counts (arXiv 1902.09506), case and punctuation aside; and questions of a user's own."""

from __future__ import annotations

import string
from collections.abc import Sequence

from vila2_ray.evaluate.items import Item
from vila2_ray.evaluate.rules.letters import mmbench_letter
from vila2_ray.evaluate.rules.tally import Rule, Tally, accuracies, counted

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def is_same(said: str, answer: str) -> bool:
    """Whether both say the same, case, ASCII punctuation and surrounding space aside."""
    return _plain(said) == _plain(answer)


def judge(items: Sequence[Item], said: Sequence[str | None]) -> list[Tally]:
    return [
        counted(item, float(text is not None and any(is_same(text, answer) for answer in item.answers)))
        for item, text in zip(items, said, strict=True)
    ]


def judge_own(items: Sequence[Item], said: Sequence[str | None]) -> list[Tally]:
    """By the letter where there are options, else as above."""
    letters = [
        mmbench_letter(text, item.choices) if text and item.choices else text
        for item, text in zip(items, said, strict=True)
    ]
    return judge(items, letters)


def _plain(text: str) -> str:
    return text.lower().translate(_NO_PUNCTUATION).strip()


EXACT = Rule("accuracy", judge, accuracies)
OWN = Rule("accuracy", judge_own, accuracies)
