"""Scores captions and answers against scene truth: what is named, where, how large, and what is not there at all. Pure.

A scene's truth is `{"objects": [{"name", "size", "place", …}], "words": [{"text", …}]}`, as corpora of known scenes
carry it. Captions are free text; things are found in them by name. Matching is by multiset: two cats named where there
is one leave one over, which counts as hallucinated.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from vila2_ray.captions.mentions import Mention, find_things, find_words
from vila2_ray.recipes.tiny.world import NAMES

Truth = Mapping[str, Sequence[Mapping[str, object]]]


@dataclass(frozen=True)
class CaptionScores:
    """Scores of a set of captions; every share lies in 0…1, and is 0 where there was nothing to count."""

    num_captions: int
    object_precision: float
    object_recall: float
    object_f1: float
    object_place_f1: float
    object_place_size_f1: float
    hallucination_rate: float
    """Share of named things that are not there, or are named more often than they are there."""
    word_accuracy: float
    """Share of the scenes' printed words that the caption reads out."""
    word_invention_rate: float
    """Share of the words read out that are not in the scene."""
    words_per_caption: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def mark_things(caption: str, truth: Truth, names: Iterable[str] = NAMES) -> list[tuple[Mention, bool]]:
    """Each thing named, with whether it is there; a second mention of a single thing is not."""
    left = Counter(str(thing["name"]) for thing in truth["objects"])
    marked = []
    for mention in find_things(caption, names):
        marked.append((mention, left[mention.name] > 0))
        left[mention.name] -= 1
    return marked


def score_captions(captions: Sequence[str], truths: Sequence[Truth], names: Iterable[str] = NAMES) -> CaptionScores:
    """Scores of captions against the truth of their scenes, pooled over all of them (micro-averaged).

    Raises ValueError when the two sequences differ in length.
    """
    if len(captions) != len(truths):
        raise ValueError(f"{len(captions)} captions for {len(truths)} scenes")
    names = tuple(names)
    objects, places, sizes, printed = _Tally(), _Tally(), _Tally(), _Tally()
    num_words = 0
    for caption, truth in zip(captions, truths, strict=True):
        named, there = find_things(caption, names), truth["objects"]
        objects.add([thing.name for thing in named], [thing["name"] for thing in there])
        places.add([(thing.name, thing.place) for thing in named], [(thing["name"], thing["place"]) for thing in there])
        sizes.add(
            [(thing.name, thing.place, thing.size) for thing in named],
            [(thing["name"], thing["place"], thing["size"]) for thing in there],
        )
        printed.add(find_words(caption), [str(word["text"]).lower() for word in truth.get("words", ())])
        num_words += len(caption.split())
    return CaptionScores(
        num_captions=len(captions),
        object_precision=objects.precision,
        object_recall=objects.recall,
        object_f1=objects.f1,
        object_place_f1=places.f1,
        object_place_size_f1=sizes.f1,
        hallucination_rate=1 - objects.precision if objects.named else 0.0,
        word_accuracy=printed.recall,
        word_invention_rate=1 - printed.precision if printed.named else 0.0,
        words_per_caption=num_words / max(1, len(captions)),
    )


def score_answers(answers: Iterable[tuple[str, str, str]]) -> dict[str, float]:
    """Accuracy by question kind from (kind, right answer, given answer), and under "all" the mean over the kinds."""
    right: dict[str, list[bool]] = defaultdict(list)
    for kind, expected, given in answers:
        right[kind].append(normalise_answer(given) == normalise_answer(expected))
    scores = {kind: sum(hits) / len(hits) for kind, hits in sorted(right.items())}
    return scores | {"all": sum(scores.values()) / len(scores)} if scores else {}


def normalise_answer(answer: str) -> str:
    """Lower-case, without articles, prepositions of place and punctuation: `At the top-left.` → `top left`."""
    words = re.findall(r"\w+", answer.casefold())
    return " ".join(word for word in words if word not in {"a", "an", "the", "at", "in", "on"})


class _Tally:
    """Running counts of one kind of match."""

    def __init__(self) -> None:
        self.hits = self.named = self.there = 0

    def add(self, named: list, there: list) -> None:
        self.hits += (Counter(named) & Counter(there)).total()
        self.named += len(named)
        self.there += len(there)

    @property
    def precision(self) -> float:
        return self.hits / self.named if self.named else 0.0

    @property
    def recall(self) -> float:
        return self.hits / self.there if self.there else 0.0

    @property
    def f1(self) -> float:
        return 2 * self.hits / (self.named + self.there) if self.named + self.there else 0.0
