"""How scores are called, written and compared. Unknown names are shown too, by what their name says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from vila2_ray.evaluate.ranking import is_lower_better
from vila2_ray.report.data import RoundScores


@dataclass(frozen=True)
class Score:
    """A score's name for people, and how its numbers are read."""

    label: str
    better: Literal["higher", "lower", "neither"] = "higher"
    is_share: bool = True
    """A number in [0, 1], written in percent."""


KNOWN: Mapping[str, Score] = {
    "object_place_f1": Score("Object + place F1"),
    "object_f1": Score("Object F1"),
    "object_place_size_f1": Score("Object + place + size F1"),
    "hallucination_rate": Score("Hallucination rate", "lower"),
    "vqa_accuracy": Score("Questions answered right"),
    "reference_f1": Score("Overlap with reference captions"),
    "alt_text_recall": Score("Alt text said too"),
    "mean_logprob": Score("Mean token log-probability", is_share=False),
    "object_precision": Score("Object precision"),
    "object_recall": Score("Object recall"),
    "word_accuracy": Score("Printed words read right"),
    "relation_accuracy": Score("Relations told right"),
    "relation_precision": Score("Told relations that are right"),
    "question_accuracy": Score("Relations answered right, both ways round"),
    "box_recall_50": Score("Things found with their box"),
    "box_precision_50": Score("Boxes that are right"),
    "box_mean_iou": Score("Overlap with the true box"),
    "word_precision": Score("Words read out that are there"),
    "character_error_rate": Score("Wrong characters per character", "lower", is_share=False),
    "empty_accuracy": Score("Pictures without text told so"),
    "word_invention_rate": Score("Printed words made up", "lower"),
    "words_per_caption": Score("Words per caption", "neither", is_share=False),
    "distinct_1": Score("Different words per word"),
    "distinct_2": Score("Different word pairs per pair"),
    "repeated_4gram_share": Score("Repeated 4-grams", "lower"),
    "share_starting_alike": Score("Captions that start alike", "lower"),
    "alt_text_novelty": Score("Words that the alt text lacks", "neither"),
    "reference_cider": Score("CIDEr against reference captions", is_share=False),
    "vocabulary": Score("Different words in all", "neither", is_share=False),
    "unfinished_share": Score("Unfinished captions", "lower"),
    "num_samples": Score("Samples scored", "neither", is_share=False),
    "num_skipped": Score("Samples skipped", "neither", is_share=False),
}
"""In the order in which they are shown."""

MAIN = (
    "object_place_f1",
    "object_f1",
    "hallucination_rate",
    "vqa_accuracy",
    "reference_f1",
    "alt_text_recall",
    "mean_logprob",
)
"""Scores that get a plot of their own and a place in the summary, as far as they are there."""

DETAILS = frozenset(
    {
        "mean_logprob",
        "distinct_1",
        "distinct_2",
        "repeated_4gram_share",
        "share_starting_alike",
        "alt_text_recall",
        "alt_text_novelty",
        "vocabulary",
        "unfinished_share",
        "num_samples",
        "num_skipped",
    }
)
"""Scores that say how captions are, not how right they are; shown on demand where there are better ones."""

_PLAIN = frozenset({"cider", "num_items", "words_per_caption"})
"""Scores of benchmarks that are no shares; MME's sums are told apart by their size."""
_NEITHER = frozenset({"yes_ratio", "words_per_caption"})
_NUMBERS = ("words", "num", "logprob", "loss", "length", "tokens", "vocabulary", "cider", "seconds")
_LOWER = ("hallucinat", "loss", "repeated", "unfinished", "error", "failed", "invent", "skipped")


def score(name: str) -> Score:
    """What is known of a score, or what its name suggests."""
    if name in KNOWN:
        return KNOWN[name]
    benchmark, dot, short = name.partition(".")
    if dot:
        said = short.replace("_", " ")
        better: Literal["lower", "higher", "neither"] = "lower" if is_lower_better(name) else "higher"
        better = "neither" if short in _NEITHER else better
        return Score(f"{benchmark}: {said}", better, short not in _PLAIN)
    words = name.replace("_", " ").replace("-", " ").replace("/", ": ")
    if words.startswith("vqa "):
        label = "Questions: " + words.removeprefix("vqa ").removesuffix(" accuracy").removeprefix("accuracy ")
    else:
        label = words[:1].upper() + words[1:]
    is_number = any(part in name for part in _NUMBERS)
    lower = is_lower_better(name) or any(part in name for part in _LOWER)
    if lower:
        return Score(label, "lower", not is_number)
    return Score(label, "neither" if is_number and "logprob" not in name else "higher", not is_number)


def written(name: str, value: float | None) -> str:
    """A score's value for people: percent with one decimal, or a plain number."""
    if value is None or math.isnan(value):
        return "–"
    if score(name).is_share and 0 <= value <= 1:
        return f"{100 * value:.1f}\u202f%"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def gain(name: str, before: float, after: float) -> str:
    """The signed difference, in points where the score is a share."""
    delta = after - before
    share = score(name).is_share and 0 <= before <= 1 and 0 <= after <= 1
    number = 100 * delta if share else delta
    text = f"{abs(number):.1f}" if share or max(abs(before), abs(after)) >= 10 else f"{abs(number):.2f}"
    if float(text) == 0:
        return "±0"
    return ("+" if number > 0 else "−") + text


def is_better(name: str, before: float, after: float) -> bool | None:
    """Whether `after` is the better one; None when the score says nothing about better."""
    if score(name).better == "neither" or after == before:
        return None
    return (after > before) == (score(name).better == "higher")


def names_in_order(rounds: Sequence[RoundScores]) -> list[str]:
    """Every score that any round has: known ones first, kinds of questions under all questions, the rest by name."""
    present = {name for entry in rounds for name in entry.values}
    kinds = sorted(name for name in present - set(KNOWN) if name.startswith("vqa_"))
    names = []
    for name in KNOWN:
        names += [name] if name in present else []
        names += kinds if name == "vqa_accuracy" else []
    return names + sorted(present - set(names))


def best_round(rounds: Sequence[RoundScores], metric: str) -> RoundScores | None:
    """The round with the best `metric`; the earliest of equals."""
    scored = [entry for entry in rounds if metric in entry.values]
    if not scored:
        return None
    sign = -1 if score(metric).better == "lower" else 1
    return max(scored, key=lambda entry: (sign * entry.values[metric], -entry.round))
