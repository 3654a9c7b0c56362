"""Short answers of several people: the VQA accuracy of VQAv2 (arXiv 1505.00468), TextVQA and VizWiz.

An answer is as right as people agree with it: for each of the (ten) people, min(1, others who say the same ÷ 3), and
the mean of these. Before, answers are brought to one form, as the VQA evaluation does it: punctuation goes, or becomes
a space where it stands between letters; number words become digits; articles go; apostrophes come back. TextVQA and
VizWiz first lower the answer's case, drop commas and question marks and part `'s` from its word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from vila2_ray.evaluate.items import Item
from vila2_ray.evaluate.rules.tally import Rule, Tally, accuracies, counted

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_BETWEEN_DIGITS = re.compile(r"\d,+\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {"none": "0", **{word: str(number) for number, word in enumerate(_NUMBERS)}}
_ARTICLES = frozenset({"a", "an", "the"})
_WITH_APOSTROPHE = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
"""Whose apostrophes are put back. Words that are others without it (we'll, she'd, I'm) are not among them."""


def _without_one_apostrophe(word: str) -> list[str]:
    places = [at for at, char in enumerate(word) if char == "'"]
    return [word[:at] + word[at + 1 :] for at in places]


_CONTRACTIONS = {part: word for word in _WITH_APOSTROPHE.split() for part in _without_one_apostrophe(word)}
_CONTRACTIONS["somebody'd"] = "somebodyd"  # the published list has this one the other way round


def plain_answer(text: str) -> str:
    """An answer in the form in which VQAv2 compares it."""
    text = text.replace("\n", " ").replace("\t", " ").strip()
    is_number = _BETWEEN_DIGITS.search(text) is not None
    kept = text
    for mark in _MARKS:
        at_an_edge = f"{mark} " in text or f" {mark}" in text
        kept = kept.replace(mark, "" if at_an_edge or is_number else " ")
    words = (_DIGITS.get(word, word) for word in _FULL_STOP.sub("", kept).lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def plain_short_answer(text: str) -> str:
    """An answer in the form in which TextVQA and VizWiz compare it."""
    lower = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return plain_answer(lower)


def agreement(said: str, answers: Sequence[str]) -> float:
    """The VQA accuracy of `said`, both in plain form."""
    if not answers:
        return 0.0
    same = sum(answer == said for answer in answers)
    others = [same - (answer == said) for answer in answers]
    return sum(min(1.0, number / 3) for number in others) / len(answers)


def judge_vqav2(items: Sequence[Item], said: Sequence[str | None]) -> list[Tally]:
    return [_one(item, text, plain_answer) for item, text in zip(items, said, strict=True)]


def judge_short(items: Sequence[Item], said: Sequence[str | None]) -> list[Tally]:
    return [_one(item, text, plain_short_answer) for item, text in zip(items, said, strict=True)]


def _one(item: Item, said: str | None, plain: Callable[[str], str]) -> Tally:
    right = 0.0 if said is None else agreement(plain(said), [plain(answer) for answer in item.answers])
    return counted(item, right)


VQAV2 = Rule("accuracy", judge_vqav2, accuracies)
SHORT = Rule("accuracy", judge_short, accuracies)
