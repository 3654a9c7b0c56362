"""Which score to go by, and which way it is better. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

RICHEST_FIRST = (
    "object_place_f1",
    "object_f1",
    "vqa_accuracy",
    "reference_f1",
    "alt_text_recall",
    "mean_logprob",
)
"""From what knows most of a caption's truth to what knows least.

With truth: what is seen and where. With questions or reference captions: whether they are met. With alt text only: the
share of its words that captions say. With nothing but images: how sure the model is of its words.
"""
LOWER_IS_BETTER = frozenset(
    {
        "hallucination_rate",
        "word_invention_rate",
        "repeated_4gram_share",
        "share_starting_alike",
        "unfinished_share",
        "num_skipped",
        "chair_i",
        "chair_s",
    }
)


def richest_metric(scores: Mapping[str, float]) -> str:
    """The first of `RICHEST_FIRST` that was computed (is there and a number). Raises ValueError when none was."""
    for name in RICHEST_FIRST:
        if name in scores and not math.isnan(scores[name]):
            return name
    raise ValueError(f"none of {', '.join(RICHEST_FIRST)} is among the scores {sorted(scores)}")


def is_lower_better(metric: str) -> bool:
    """Whether a smaller value of this score is the better one; a benchmark's is called `chair.chair_i`."""
    return metric.rpartition(".")[2] in LOWER_IS_BETTER
