"""CIDEr-D (arXiv 1411.5726) of captions against several people's.

Words are told apart by a tokenizer of ours, after the Penn Treebank's rules as COCO's evaluation uses them: lower
case, punctuation left out, hyphens kept within words, `'s` and `n't` parted. COCO's own is a Java program, from which
ours differs in rare abbreviations.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from vila2_ray.captions.words import Ngram, ngrams
from vila2_ray.evaluate.items import Item
from vila2_ray.evaluate.rules.tally import Rule, Scores, Sums, Tally, ratio

_ORDERS = (1, 2, 3, 4)
_SIGMA = 6.0
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


class _Weighted:
    """An n-gram vector of a caption, weighted by how rare each is."""

    def __init__(self, counts: Mapping[Ngram, int], idf: Mapping[Ngram, float], unseen: float) -> None:
        self.weights = {gram: num * idf.get(gram, unseen) for gram, num in counts.items()}
        self.length = sum(num for gram, num in counts.items() if len(gram) == 2)
        squares = dict.fromkeys(_ORDERS, 0.0)
        for gram, weight in self.weights.items():
            squares[len(gram)] += weight**2
        self.norms = {n: math.sqrt(square) for n, square in squares.items()}

    def similarity(self, other: _Weighted) -> float:
        """Mean over n-gram orders of the cosine, `self`'s weights clipped to the other's, less for another length."""
        dots = dict.fromkeys(_ORDERS, 0.0)
        for gram, weight in self.weights.items():
            there = other.weights.get(gram, 0.0)
            dots[len(gram)] += min(weight, there) * there
        norms = {n: self.norms[n] * other.norms[n] for n in _ORDERS}
        penalty = math.exp(-((self.length - other.length) ** 2) / (2 * _SIGMA**2))
        return penalty * sum(dots[n] / norms[n] if norms[n] else 0.0 for n in _ORDERS) / len(_ORDERS)


def tokens(caption: str) -> list[str]:
    """The words of a caption as CIDEr counts them."""
    text = _PARTED.sub(r"\1 \2", caption.lower().replace("’", "'"))
    return [_BRACKETS.get(word, word) for word in _WORD.findall(text)]


def ciders(captions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> list[float]:
    """The CIDEr-D of each caption in [0, 10]; captions and references are lists of tokens.

    How rare an n-gram is, is counted in these references: sets of a few images say little.
    """
    counted = [[_counts(reference) for reference in of_image] for of_image in references]
    frequency = Counter(gram for of_image in counted for gram in {gram for counts in of_image for gram in counts})
    unseen = math.log(len(references)) if references else 0.0
    idf = {gram: unseen - math.log(num) for gram, num in frequency.items()}
    scores = []
    for caption, of_image in zip(captions, counted, strict=True):
        said = _Weighted(_counts(caption), idf, unseen)
        found = [said.similarity(_Weighted(counts, idf, unseen)) for counts in of_image]
        scores.append(10 * sum(found) / len(found) if found else 0.0)
    return scores


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


def _counts(words: Iterable[str]) -> Counter[Ngram]:
    said = list(words)
    return Counter(gram for n in _ORDERS for gram in ngrams(said, n))


CIDER = Rule("cider", judge, _scores)
