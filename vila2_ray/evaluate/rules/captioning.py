"""CIDEr-D (arXiv 1411.5726) of captions against several people's.

Words are told apart by a tokenizer of ours, after the Penn Treebank's rules as COCO's evaluation uses them: lower
case, punctuation left out, hyphens kept within words, `'s` and `n't` parted. COCO's own is a Java program, from which
ours differs in rare abbreviations.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from vila2_ray.captions.cider import ciders
from vila2_ray.evaluate.items import Item
from vila2_ray.evaluate.rules.tally import Rule, Scores, Sums, Tally, ratio

_WORD = re.compile(
    r"\d+(?:[.,:/]\d+)*(?:\w|-\w)*|"  # 3, 1,000, 7:30
    r"(?:[a-z]\.){2,}|(?:mr|mrs|ms|dr|jr|sr|vs)\.|"  # u.s., mr.
    r"o'clock\b|"
    r"\w+(?=n't\b)|n't\b|"  # do n't
    r"(?<=\w)'(?:s|m|d|ll|re|ve)\b|"  # man 's
    r"\w+(?:[-_.&/]\w+)*(?=n't\b|'|\W|$)|[$%#&@=+*/()\[\]{}]"
)
_PARTED = re.compile(r"\b(can|gon|got|wan)(not|na|ta)\b")
_BRACKETS = dict(zip("()[]{}", ("-lrb-", "-rrb-", "-lsb-", "-rsb-", "-lcb-", "-rcb-"), strict=True))
"""In lower case COCO's evaluation does not know them as punctuation, so they count as words."""


def tokens(caption: str) -> list[str]:
    """The words of a caption as CIDEr counts them."""
    text = _PARTED.sub(r"\1 \2", caption.lower().replace("’", "'"))
    return [_BRACKETS.get(word, word) for word in _WORD.findall(text)]


def judge(items: Sequence[Item], said: Sequence[str | None]) -> list[Tally]:
    found = ciders(
        [tokens(text or "") for text in said], [[tokens(answer) for answer in item.answers] for item in items]
    )
    return [
        {"score": score, "cider": score, "num": 1.0, "words": float(len(tokens(text or "")))}
        for score, text in zip(found, said, strict=True)
    ]


def _scores(sums: Sums) -> Scores:
    return {"cider": ratio(sums["cider"], sums["num"]), "words_per_caption": ratio(sums["words"], sums["num"])}


CIDER = Rule("cider", judge, _scores)
