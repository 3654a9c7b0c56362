"""Which of a sample's captions is trained on: one of those that the filters keep, or none, and the alt text stays.

mean_logprob   the highest mean token log-probability
min_logprob    the highest lowest token log-probability: a caption is as sure as its least sure word
agreement      the highest mean token F1 with the sample's other kept captions: what several draws say is likely so
scorer         the highest image–text similarity, where the alt text competes too (BLIP's CapFilt, arXiv 2201.12086)

Of equals the first is picked, so the caller's order decides: newest layer first, then variants in order.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from vila2_ray.captions.words import words
from vila2_ray.config import FallbackConfig, PickConfig


def pick(
    captions: Sequence[Mapping[str, Any]],
    config: PickConfig,
    similarities: Sequence[float] | None = None,
    alt_text_similarity: float | None = None,
) -> int | None:
    """Index of the picked caption; None where there is none or `fallback_alt_text` is not reached.

    `captions` need the columns text, mean_logprob and min_logprob of a caption layer. `scorer` needs their image–text
    `similarities`, one by one, and the alt text's (None where there is no alt text to compete).
    """
    assert config.by != "none", "nothing is picked when pick.by is none"
    if not captions:
        return None
    scores = _scores(captions, config, similarities)
    best = max(range(len(captions)), key=scores.__getitem__)
    return best if _reaches(captions[best], len(captions), scores[best], config, alt_text_similarity) else None


def agreements(texts: Sequence[str]) -> list[float]:
    """Mean token F1 of each text with the others, in [0, 1]; 1 for a text that has no others."""
    if len(texts) < 2:
        return [1.0] * len(texts)
    counts = [Counter(words(text)) for text in texts]
    sizes = [said.total() for said in counts]
    sums = [0.0] * len(texts)
    for i in range(len(texts)):
        for j in range(i):
            both = sizes[i] + sizes[j]
            f1 = 2 * (counts[i] & counts[j]).total() / both if both else 1.0
            sums[i] += f1
            sums[j] += f1
    return [total / (len(texts) - 1) for total in sums]


def _scores(
    captions: Sequence[Mapping[str, Any]], config: PickConfig, similarities: Sequence[float] | None
) -> Sequence[float]:
    if config.by == "agreement":
        return agreements([caption["text"] for caption in captions])
    if config.by == "scorer":
        assert similarities is not None, "picking by scorer needs a similarity for each caption"
        assert len(similarities) == len(captions), "picking by scorer needs a similarity for each caption"
        return similarities
    return [_number(caption[config.by]) for caption in captions]


def _reaches(
    caption: Mapping[str, Any], num_captions: int, score: float, config: PickConfig, alt_text_similarity: float | None
) -> bool:
    fallback: FallbackConfig = config.fallback_alt_text
    borders = ((caption["mean_logprob"], fallback.min_mean_logprob), (caption["min_logprob"], fallback.min_min_logprob))
    if any(border is not None and _number(value) < border for value, border in borders):
        return False
    if config.by == "agreement":
        return num_captions < 2 or score >= fallback.min_agreement
    if config.by == "scorer" and alt_text_similarity is not None:
        return score > alt_text_similarity + fallback.min_scorer_margin
    return True


def _number(value: float | None) -> float:
    """What was not measured, or is not a number, is worse than everything."""
    return -math.inf if value is None or math.isnan(value) else value
