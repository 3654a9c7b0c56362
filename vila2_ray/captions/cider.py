"""CIDEr-D (arXiv 1411.5726): how near captions come to what people wrote, rare n-grams counting most."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from vila2_ray.captions.words import Ngram, ngrams

_ORDERS = (1, 2, 3, 4)
_SIGMA = 6.0


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


def _counts(words: Iterable[str]) -> Counter[Ngram]:
    said = list(words)
    return Counter(gram for n in _ORDERS for gram in ngrams(said, n))
