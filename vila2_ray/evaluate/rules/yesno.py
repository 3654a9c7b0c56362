"""Yes or no: POPE (arXiv 2305.10355) and MME (arXiv 2306.13394)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from vila2_ray.evaluate.items import Item
from vila2_ray.evaluate.rules.tally import Rule, Scores, Sums, Tally, accuracies, counted, ratio, slug

PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


def pope_answer(said: str) -> str:
    """`yes` or `no`, as POPE reads it: no, where the first sentence has the word no or not, else yes; "" of nothing."""
    if not said.strip():
        return ""
    words = said.partition(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def mme_answer(said: str) -> str:
    """`yes`, `no` or `other`, as MME reads it: by the first four letters."""
    text = said.lower().strip().replace(".", "")
    if len(text) == 1:
        return {"y": "yes", "n": "no"}.get(text, "other")
    return next((word for word in ("yes", "no") if word in text[:4]), "other")


def judge_pope(items: Sequence[Item], said: Sequence[str | None]) -> list[Tally]:
    tallies = []
    for item, text in zip(items, said, strict=True):
        given, right = pope_answer(text or ""), item.answers[0]
        tally = counted(item, float(given == right), yes=float(given == "yes"))
        found = {
            "hit": given == right == "yes",
            "false": given == "yes" and right == "no",
            "missed": given != "yes" and right == "yes",
        }
        for name, is_so in found.items():
            tally |= {place: float(is_so) for place in (name, *(f"{name}|{group}" for group in item.groups))}
        tallies.append(tally)
    return tallies


def _pope_scores(sums: Sums) -> Scores:
    found = {
        **accuracies(sums),
        "precision": ratio(sums["hit"], sums["hit"] + sums["false"]),
        "recall": ratio(sums["hit"], sums["hit"] + sums["missed"]),
        "f1": _f1(sums, ""),
        "yes_ratio": ratio(sums["yes"], sums["num"]),
    }
    groups = sorted(name.partition("|")[2] for name in sums if name.startswith("num|"))
    return found | {f"f1_{slug(group)}": _f1(sums, f"|{group}") for group in groups}


def _f1(sums: Sums, where: str) -> np.ndarray:
    hit = sums[f"hit{where}"]
    return ratio(2 * hit, 2 * hit + sums[f"false{where}"] + sums[f"missed{where}"])


def judge_mme(items: Sequence[Item], said: Sequence[str | None]) -> list[Tally]:
    """Items of one cluster are the questions about one image; accuracy+ counts images with all of them right."""
    tallies = [
        counted(item, float(mme_answer(text or "") == item.answers[0])) for item, text in zip(items, said, strict=True)
    ]
    of_image: dict[str, list[int]] = defaultdict(list)
    for number, item in enumerate(items):
        of_image[item.drawn_with].append(number)
    for numbers in of_image.values():
        first, group = numbers[0], items[numbers[0]].groups[0]
        both = float(all(tallies[number]["score"] for number in numbers))
        tallies[first] |= {f"both|{group}": both, f"images|{group}": 1.0}
    return tallies


def _mme_scores(sums: Sums) -> Scores:
    """Of each subtask accuracy + accuracy+ in percent, so up to 200; perception and cognition add theirs up."""
    found: Scores = {}
    for group in sorted(name.partition("|")[2] for name in sums if name.startswith("num|")):
        plus = ratio(sums[f"both|{group}"], sums[f"images|{group}"])
        found[slug(group)] = 100 * (ratio(sums[f"right|{group}"], sums[f"num|{group}"]) + plus)
    for name, subtasks in (("perception", PERCEPTION), ("cognition", COGNITION)):
        present = [found[slug(subtask)] for subtask in subtasks if slug(subtask) in found]
        if present:
            found[name] = sum(present[1:], start=present[0])
    return found


POPE = Rule("f1", judge_pope, _pope_scores)
MME = Rule("perception", judge_mme, _mme_scores)
