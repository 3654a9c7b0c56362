"""Objects that captions make up: CHAIR (arXiv 1809.02156), by COCO's annotations and a table of synonyms of ours.

chair_s   share of captions that name an object that is not there
chair_i   share of named objects, repetitions included, that are not there
recall    share of the objects that are there which the caption names
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from vila2_ray.captions.mentions import find_names
from vila2_ray.captions.metrics import FUNCTION_WORDS
from vila2_ray.evaluate.items import Item
from vila2_ray.evaluate.rules.coco_objects import names
from vila2_ray.evaluate.rules.tally import Rule, Scores, Sums, Tally, ratio


def named_objects(text: str) -> list[str]:
    """COCO's classes in the order in which a text names them, repetitions included. `an orange cat` names no fruit."""
    known = _names()
    found = find_names(text, known)
    return [known[name.name] for name in found if known[name.name] and not _is_colour(text, name.name, name.stop)]


def judge(items: Sequence[Item], said: Sequence[str | None]) -> list[Tally]:
    tallies = []
    for item, text in zip(items, said, strict=True):
        named, there = named_objects(text or ""), set(item.answers)
        wrong = sum(name not in there for name in named)
        tallies.append(
            {
                "score": float(wrong == 0),
                "num": float(text is not None),
                "hallucinating": float(wrong > 0),
                "wrong": float(wrong),
                "named": float(len(named)),
                "recalled": float(len(there & set(named))),
                "there": float(len(there)),
                "words": float(len((text or "").split())),
            }
        )
    return tallies


def _scores(sums: Sums) -> Scores:
    return {
        "chair_i": ratio(sums["wrong"], sums["named"]),
        "chair_s": ratio(sums["hallucinating"], sums["num"]),
        "recall": ratio(sums["recalled"], sums["there"]),
        "words_per_caption": ratio(sums["words"], sums["num"]),
    }


@lru_cache(maxsize=1)
def _names() -> dict[str, str]:
    return names()


def _is_colour(text: str, name: str, stop: int) -> bool:
    """Whether `orange` stands before the thing that has this colour."""
    if name != "orange" or text[stop - 1 : stop].lower() == "s":
        return False
    following = re.match(r"[ -](\w+)", text[stop:])
    return following is not None and following.group(1).lower() not in FUNCTION_WORDS


CHAIR = Rule("chair_i", judge, _scores)
