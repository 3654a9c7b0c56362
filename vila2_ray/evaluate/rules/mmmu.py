"""MMMU (arXiv 2311.16502): options where there are any, else a short answer in which words or numbers are looked for.

The published rule guesses where an answer names no option. So does this one, but by the item's id: the same every time.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from vila2_ray.evaluate.items import Item
from vila2_ray.evaluate.rules.letters import letters
from vila2_ray.evaluate.rules.tally import Rule, Tally, accuracies, counted

_ENDS = ",.!?;:'"
_BEFORE_ANSWER = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)
"""With thousands' commas, with an exponent, plain."""

Known = str | float


def option_letter(said: str, choices: Sequence[str]) -> str:
    """The option that an answer names: `(B)`, else `B` before a space, else `B.`, else (in more than five words) the
    option's text; the last of several, "" where there is none.
    """
    text = said
    for char in _ENDS:
        text = text.strip(char)
    text = f" {text} "
    known = letters(len(choices))
    for look, place in ((r"({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        found = [letter for letter in known if look.format(letter) in text]
        if found:
            return max(found, key=lambda letter: text.rfind(place.format(letter))) if len(found) > 1 else found[0]
    if len(text.split()) <= 5:
        return ""
    lower = text.lower()
    told = {letter: choice.lower() for letter, choice in zip(known, choices, strict=True) if choice.lower() in lower}
    return max(told, key=lambda letter: lower.rfind(told[letter])) if told else ""


def guess(item: Item) -> str:
    """One of an item's letters, drawn by its id."""
    drawn = int(hashlib.sha256(item.id.encode()).hexdigest()[:8], 16)
    return letters(len(item.choices))[drawn % len(item.choices)]


def open_answers(said: str) -> set[Known]:
    """What an answer may be taken to say: the ends of its sentences after words such as `is`, and the numbers there."""
    text = said.strip().strip(".").lower()
    parts = re.split(r"\.\s(?=[A-Z])|\n", text)
    key_parts = []
    for place, part in enumerate(parts):
        signs = (*_BEFORE_ANSWER, "=") if place == len(parts) - 1 else _BEFORE_ANSWER
        ends = [part.rpartition(sign)[2].strip() for sign in signs if sign in part]
        shortest = _shortest(ends)
        if shortest and shortest not in (":", ",", ".", "!", "?", ";", "'"):
            key_parts.append(shortest)
    found: list[str] = list(key_parts or [text])
    found += [number for part in key_parts or [text] for pattern in _NUMBERS for number in pattern.findall(part)]
    return {known for each in found for known in normal(each)}


def normal(text: str) -> list[Known]:
    """A number, rounded to two decimals; else the text in lower case, a single letter only beside a space."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except (ValueError, OverflowError):
        lower = text.lower()
        return [f" {lower}", f"{lower} "] if len(lower) == 1 else [lower]


def is_right(said: str, answers: Sequence[str]) -> bool:
    """Whether one of the answers is a number that is said, or stands within what is said."""
    known = [each for answer in answers for each in normal(answer)]
    texts = [each for each in known if isinstance(each, str)]
    for given in open_answers(said):
        if any(text in given for text in texts) if isinstance(given, str) else given in known:
            return True
    return False


def judge(items: Sequence[Item], said: Sequence[str | None]) -> list[Tally]:
    return [counted(item, _score(item, text)) for item, text in zip(items, said, strict=True)]


def _score(item: Item, said: str | None) -> float:
    if said is None:
        return 0.0
    if not item.choices:
        return float(is_right(said, item.answers))
    return float((option_letter(said, item.choices) or guess(item)) in item.answers)


def _shortest(ends: Sequence[str]) -> str:
    """The first of the shortest; one that is empty gives way to whatever comes after it."""
    best = ""
    for end in ends:
        if not best or len(end) < len(best):
            best = end
    return best


MMMU = Rule("accuracy", judge, accuracies)
