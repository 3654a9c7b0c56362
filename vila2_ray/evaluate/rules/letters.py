"""Options A, B, C …: ScienceQA (arXiv 2209.09513), SEED-Bench (arXiv 2307.16125) and MMBench (arXiv 2307.06281).

Each benchmark reads an answer's letter in its own way, and the ways differ in what they forgive.
"""

from __future__ import annotations

import string
from collections import defaultdict
from collections.abc import Sequence

from vila2_ray.evaluate.items import Item
from vila2_ray.evaluate.rules.tally import Rule, Tally, accuracies, counted

MMBENCH_LETTERS = "ABCDE"
_AROUND = (
    ("", "."),
    ("", ","),
    ("", ":"),
    ("", ")"),
    ("", ")."),
    ("(", ")"),
    ("(", ")."),
    (":", ""),
    (":", ","),
    (":", "."),
    (":", ")"),
    (":", ")."),
)
"""What may stand before and after MMBench's letters, in the order in which they are tried."""


def letters(num: int) -> str:
    """The first letters of the alphabet."""
    return string.ascii_uppercase[:num]


def with_letters(choices: Sequence[str]) -> str:
    """A line for each option: `A. a cat`."""
    return "\n".join(f"{letter}. {text}" for letter, text in zip(string.ascii_uppercase, choices, strict=False))


def scienceqa_letter(said: str) -> str:
    """The answer itself where it is a letter (`b`), or the capital that it begins with (`B. A dog`); "" else."""
    text = said.strip()
    if len(text) == 1:
        return text.upper()
    return text[0] if len(text) >= 2 and text[0].isupper() and text[1] == "." else ""


def seed_letter(said: str) -> str:
    """The answer's first character."""
    return said.strip()[:1].upper()


def mmbench_letter(said: str, choices: Sequence[str]) -> str:
    """The one letter that stands alone in the answer, else the one option whose text it holds; "" where there is none.

    A that may be the article (in more than three words) is no letter. Where MMBench asks a language model to match
    what is left, or guesses, we count it as wrong.
    """
    words = said.split()
    alone = [letter for letter in MMBENCH_LETTERS if letter in words]
    if len(alone) == 1 and not ("A" in words and len(words) > 3):
        return alone[0]
    for before, after in _AROUND:
        found = [letter for letter in MMBENCH_LETTERS if f"{before}{letter}{after}" in words]
        if len(found) == 1:
            return found[0]
    lower = said.lower()
    held = [letter for letter, text in zip(MMBENCH_LETTERS, choices, strict=False) if text.lower() in lower]
    return held[0] if len(held) == 1 else ""


def judge_scienceqa(items: Sequence[Item], said: Sequence[str | None]) -> list[Tally]:
    return [
        counted(item, float(scienceqa_letter(text or "") == item.answers[0]))
        for item, text in zip(items, said, strict=True)
    ]


def judge_seed(items: Sequence[Item], said: Sequence[str | None]) -> list[Tally]:
    return [
        counted(item, float(seed_letter(text or "") == item.answers[0])) for item, text in zip(items, said, strict=True)
    ]


def judge_circular(items: Sequence[Item], said: Sequence[str | None]) -> list[Tally]:
    """Items of one cluster are one question with its options in turn: right where all of them are.

    The first item of a cluster counts for it; `turn` is the share of single turns that are right.
    """
    right = [
        mmbench_letter(text or "", item.choices) == item.answers[0] for item, text in zip(items, said, strict=True)
    ]
    of_question: dict[str, list[int]] = defaultdict(list)
    for number, item in enumerate(items):
        of_question[item.drawn_with].append(number)
    tallies: list[Tally] = [{"score": float(each), "turns_right": float(each), "turns": 1.0} for each in right]
    for numbers in of_question.values():
        whole = float(all(right[number] for number in numbers))
        tallies[numbers[0]] |= {**counted(items[numbers[0]], whole), "score": tallies[numbers[0]]["score"]}
    return tallies


SCIENCEQA = Rule("accuracy", judge_scienceqa, accuracies)
SEED = Rule("accuracy", judge_seed, accuracies)
MMBENCH = Rule(
    "accuracy", judge_circular, lambda sums: {**accuracies(sums), "single_turn": sums["turns_right"] / sums["turns"]}
)
