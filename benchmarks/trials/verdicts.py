"""What judges of captions are worth, from truth: what is made up, what flags find of it, what is picked. Pure.

A caption *hallucinates* when it names a thing that is not in the scene, or names it more often than it is there, or
reads out a word that is not printed there. A wrong place or size is no hallucination here.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from trials.written import Written

from vila2_ray.captions.filters import Flag, judge, layer_threshold
from vila2_ray.captions.mentions import Mention, find_things, find_words
from vila2_ray.captions.pick import agreements, pick
from vila2_ray.captions.words import words
from vila2_ray.config import FallbackConfig, FiltersConfig, PickConfig
from vila2_ray.evaluate.items import Item
from vila2_ray.evaluate.rules.tally import Estimate, Rule, Scores, Sums, Tally, estimate, ratio
from vila2_ray.evaluate.truth import Truth, mark_things, normalise_answer
from vila2_ray.recipes.tiny.world import NAMES, with_article


@dataclass(frozen=True)
class Told:
    """A caption with what is true of it."""

    caption: Written
    things: tuple[Mention, ...]
    words: tuple[str, ...]
    """Printed words that it reads out."""
    num_true: int
    """Things named that are there."""
    num_there: int
    """Things in the scene."""
    num_false: int
    """Things and printed words that it makes up."""
    agreement: float
    """Mean token F1 with the other drawn captions of the scene; of a greedy one with all drawn ones."""

    @property
    def hallucinates(self) -> bool:
        return self.num_false > 0


def told(captions: Sequence[Written], truths: Mapping[int, Truth]) -> list[Told]:
    """Each caption with its truth, in order."""
    drawn: dict[int, list[Written]] = {}
    for caption in captions:
        if caption.variant:
            drawn.setdefault(caption.scene, []).append(caption)
    found = []
    for caption in captions:
        truth = truths[caption.scene]
        marked = mark_things(caption.text, truth)
        read = find_words(caption.text)
        made_up = Counter(read) - Counter(str(word["text"]).lower() for word in truth.get("words", ()))
        true = sum(there for _, there in marked)
        others = [other.text for other in drawn.get(caption.scene, []) if other.variant != caption.variant]
        found.append(
            Told(
                caption=caption,
                things=tuple(mention for mention, _ in marked),
                words=tuple(read),
                num_true=true,
                num_there=len(truth["objects"]),
                num_false=len(marked) - true + made_up.total(),
                agreement=_agreement(caption.text, others),
            )
        )
    return found


def _agreement(text: str, others: Sequence[str]) -> float:
    """Mean token F1 of one text with others; 1 where there are none."""
    pairs = [agreements([text, other])[0] for other in others]
    return sum(pairs) / len(pairs) if pairs else 1.0


# --- flags -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """Borders on what a layer tells by itself. The defaults let everything pass."""

    min_mean_logprob: float = -math.inf
    drop_lowest_min_logprob_share: float = 0.0
    min_agreement: float = 0.0
    others: bool = False
    """Whether all other flags count as well."""

    def flagged(self, layer: Sequence[Told], flags: Sequence[Sequence[str]]) -> list[bool]:
        """Of a whole layer, since a share is of a layer. `flags`: what the filters say without these borders."""
        share = self.drop_lowest_min_logprob_share
        threshold = layer_threshold(lambda: [np.array([t.caption.min_logprob for t in layer], np.float32)], share)
        return [
            (self.others and bool(said))
            or not t.caption.mean_logprob >= self.min_mean_logprob
            or bool(np.float32(t.caption.min_logprob) < threshold)
            or t.agreement < self.min_agreement
            for t, said in zip(layer, flags, strict=True)
        ]

    def __str__(self) -> str:
        shown = ["all flags"] if self.others else []
        if self.min_mean_logprob > -math.inf:
            shown.append(f"min_mean_logprob={self.min_mean_logprob:g}")
        if self.drop_lowest_min_logprob_share:
            shown.append(f"drop_lowest_min_logprob_share={self.drop_lowest_min_logprob_share:g}")
        if self.min_agreement:
            shown.append(f"agreement ≥ {self.min_agreement:g}")
        return ", ".join(shown)


def flags_of(
    layer: Sequence[Told], alt_texts: Mapping[int, str], prompt: str, filters: FiltersConfig
) -> list[list[str]]:
    """What the filters say of each caption, by name of the flag."""
    rows = [t.caption.row() for t in layer]
    values = [np.array([row["min_logprob"] for row in rows], np.float32)]
    threshold = layer_threshold(lambda: values, filters.drop_lowest_min_logprob_share)
    for row, value in zip(rows, values[0], strict=True):
        row["min_logprob"] = float(value)  # as a layer keeps it
    return judge(rows, [alt_texts[t.caption.scene] for t in layer], [prompt] * len(layer), filters, threshold)


FLAGS = tuple(flag for flag in Flag if flag is not Flag.NOT_PICKED)


@dataclass(frozen=True)
class Judged:
    """A caption, whether it hallucinates, and whether a judge says so."""

    scene: int
    hallucinates: bool
    is_flagged: bool
    num_things: int = 0
    """That it names: who names more is wrong more often, and a judge may do no more than count."""


def detection(judged: Sequence[Judged]) -> dict[str, Estimate]:
    """How well hallucinating captions are told from others: shares, each with its interval over scenes.

    precision: of the flagged, those that hallucinate · recall: of those that hallucinate, the flagged · false_alarms:
    of those that do not, the flagged · flagged · base_rate: those that hallucinate · gain: recall less false alarms,
    0 for whoever does not look (Youden's J) · gain_as_long: the same among captions that name as many things, with the
    weights of Mantel and Haenszel.
    """
    return _estimate([(one.scene, _counts(one)) for one in judged], _detected)


_LENGTHS = ("0", "1", "2", "3", "more")


def _counts(one: Judged) -> Tally:
    bad, flagged = float(one.hallucinates), float(one.is_flagged)
    tally = dict.fromkeys((f"{name}|{length}" for name in ("num", "bad", "flagged", "hit") for length in _LENGTHS), 0.0)
    length = _LENGTHS[min(one.num_things, len(_LENGTHS) - 1)]
    return tally | {
        f"num|{length}": 1.0,
        f"bad|{length}": bad,
        f"flagged|{length}": flagged,
        f"hit|{length}": bad * flagged,
    }


def _detected(sums: Sums) -> Scores:
    by_length = {name: [sums[f"{name}|{length}"] for length in _LENGTHS] for name in ("num", "bad", "flagged", "hit")}
    num, bad, flagged, hit = (sum(found, np.zeros(())) for found in by_length.values())
    recall, false_alarms = ratio(hit, bad), ratio(flagged - hit, num - bad)
    over, under = np.zeros_like(num), np.zeros_like(num)
    for n, b, f, h in zip(*by_length.values(), strict=True):
        over += np.nan_to_num(ratio(h * (n - b) - (f - h) * b, n))
        under += np.nan_to_num(ratio(b * (n - b), n))
    return {
        "precision": ratio(hit, flagged),
        "recall": recall,
        "false_alarms": false_alarms,
        "flagged": ratio(flagged, num),
        "base_rate": ratio(bad, num),
        "gain": recall - false_alarms,
        "gain_as_long": ratio(over, under),
    }


def best_setting(settings: Sequence[Setting], judged: Callable[[Setting], Sequence[Judged]]) -> Setting:
    """The one with the greatest gain; of equals the first."""
    return max(settings, key=lambda setting: _gain(judged(setting)))


def _gain(judged: Sequence[Judged]) -> float:
    bad = [one.is_flagged for one in judged if one.hallucinates]
    good = [one.is_flagged for one in judged if not one.hallucinates]
    return (sum(bad) / len(bad) if bad else 0.0) - (sum(good) / len(good) if good else 0.0)


# --- picking ---------------------------------------------------------------------------------------------------------


def picked(captions: Sequence[Told], by: str, min_agreement: float = 0.0) -> Told | None:
    """One of a scene's captions; None where none reaches the border. `by`: a rule of `pick`, or one of those below.

    first · random: drawn by the scene · fewest words · oracle: what makes up least, of those what says most.
    """
    if by == "first":
        return captions[0]
    if by == "random":
        return random.Random(captions[0].caption.scene).choice(captions)
    if by == "fewest words":
        return min(captions, key=lambda t: len(words(t.caption.text)))
    if by == "oracle":
        return min(captions, key=lambda t: (t.num_false, -t.num_true))
    config = PickConfig(by=by, fallback_alt_text=FallbackConfig(min_agreement=min_agreement))  # type: ignore[arg-type]
    index = pick([t.caption.row() for t in captions], config)
    return None if index is None else captions[index]


def quality(captions: Sequence[tuple[int, Told | None]]) -> dict[str, Estimate]:
    """Of what was picked, scene by scene: object precision and recall, and the share that hallucinates.

    Recall is over the scenes where something was picked.
    """
    tallies: list[tuple[int, Tally]] = []
    for scene, t in captions:
        tally = {"scenes": 1.0, "picked": 0.0, "named": 0.0, "true": 0.0, "there": 0.0, "bad": 0.0}
        if t is not None:
            tally |= {"picked": 1.0, "named": float(len(t.things)), "true": float(t.num_true)}
            tally |= {"there": float(t.num_there), "bad": float(t.hallucinates)}
        tallies.append((scene, tally))
    return _estimate(tallies, _quality)


def _quality(sums: Sums) -> Scores:
    return {
        "picked": ratio(sums["picked"], sums["scenes"]),
        "object_precision": ratio(sums["true"], sums["named"]),
        "object_recall": ratio(sums["true"], sums["there"]),
        "object_f1": ratio(2 * sums["true"], sums["named"] + sums["there"]),
        "hallucinating": ratio(sums["bad"], sums["picked"]),
    }


# --- pairs -----------------------------------------------------------------------------------------------------------


def pairs(captions: Sequence[Told]) -> Iterator[tuple[Told, Told]]:
    """Drawn captions of one scene that make up differently much."""
    by_scene: dict[int, list[Told]] = {}
    for t in captions:
        if t.caption.variant:
            by_scene.setdefault(t.caption.scene, []).append(t)
    for there in by_scene.values():
        yield from ((a, b) for a, b in combinations(there, 2) if a.num_false != b.num_false)


def preference(preferred: Sequence[tuple[Told, Told, float | None]]) -> dict[str, Estimate]:
    """How often the truer caption of a pair is preferred, ties half; `decided`: pairs with an answer that is no tie.

    The third is what a judge gives the first caption: 1, 0, 0.5 for a tie, None where there is no answer, which counts
    for `answered` alone. `as_long`: accuracy on pairs that name as many things, where brevity tells nothing.
    """
    tallies: list[tuple[int, Tally]] = []
    for first, second, value in preferred:
        tally = dict.fromkeys(("answered", "right", "decided", "as_long", "right_as_long"), 0.0) | {"num": 1.0}
        if value is not None:
            right = value if first.num_false < second.num_false else 1 - value
            as_long = float(len(first.things) == len(second.things))
            tally |= {"answered": 1.0, "right": right, "decided": float(value != 0.5)}
            tally |= {"as_long": as_long, "right_as_long": right * as_long}
        tallies.append((first.caption.scene, tally))
    return _estimate(tallies, _preferred)


def _preferred(sums: Sums) -> Scores:
    return {
        "accuracy": ratio(sums["right"], sums["answered"]),
        "as_long": ratio(sums["right_as_long"], sums["as_long"]),
        "decided": ratio(sums["decided"], sums["answered"]),
        "answered": ratio(sums["answered"], sums["num"]),
    }


def by_score(first: float, second: float) -> float:
    """What the greater score says."""
    return 0.5 if first == second else float(first > second)


# --- questions -------------------------------------------------------------------------------------------------------

EXIST, COUNT, READ, WHERE, DESCRIBE = "is there", "how many", "sign says", "where is", "describe"
Asked = tuple[int, str]
"""A scene and a question."""


def questions(t: Told, prompt: str) -> list[str]:
    """What a caption is examined by, in words that a tiny model was taught; `prompt` asks for a description."""
    names = dict.fromkeys(thing.name for thing in t.things)
    asked = [f"is there {with_article(name)}?" for name in names]
    asked += [f"where is the {name}?" for name in names]
    asked += ["how many objects are there?", prompt]
    return [*asked, "what does the sign say?"] if t.words else asked


def objections(t: Told, answers: Mapping[Asked, str], prompt: str) -> dict[str, int]:
    """By kind of question, how much of a caption the answers contradict; what was not answered objects to nothing."""

    def said(question: str) -> str:
        return normalise_answer(answers.get((t.caption.scene, question), ""))

    count, sign = said("how many objects are there?"), said("what does the sign say?")
    places = [(thing.place, said(f"where is the {thing.name}?")) for thing in t.things]
    described = answers.get((t.caption.scene, prompt), "")
    names = Counter(thing.name for thing in t.things) - Counter(thing.name for thing in find_things(described, NAMES))
    return {
        EXIST: sum(said(f"is there {with_article(thing.name)}?") == "no" for thing in t.things),
        COUNT: max(0, len(t.things) - int(count)) if count.isdecimal() else 0,
        READ: sum(word != sign for word in t.words) if sign else 0,
        WHERE: sum(bool(named and place) and named != place for named, place in places),
        DESCRIBE: (names.total() + (Counter(t.words) - Counter(find_words(described))).total()) if described else 0,
    }


@dataclass(frozen=True)
class Passed:
    """Whether a judge lets a hallucinating caption of a writer pass."""

    scene: int
    judge: int
    writer: int
    is_passed: bool


def flattery(passed: Sequence[Passed]) -> Estimate:
    """Share of its own hallucinating captions that a model lets pass, less that of others'; mean over couples.

    Of models i and j: half of (i on i) − (j on i) − (i on j) + (j on j), so that neither a lenient judge nor a writer
    who is easily believed counts.
    """
    tallies: list[tuple[int, Tally]] = []
    for one in passed:
        which = f"{one.judge} on {one.writer}"
        tallies.append((one.scene, {f"num|{which}": 1.0, f"passed|{which}": float(one.is_passed)}))
    couples = list(combinations(sorted({one.judge for one in passed}), 2))

    def scores(sums: Sums) -> Scores:
        def share(judge: int, writer: int) -> np.ndarray:
            none = np.zeros(())  # a writer without hallucinating captions
            return ratio(*(sums.get(f"{name}|{judge} on {writer}", none) for name in ("passed", "num")))

        each = [(share(i, i) - share(j, i) - share(i, j) + share(j, j)) / 2 for i, j in couples]
        return {"flattery": np.mean(each, axis=0)}

    return _estimate(tallies, scores)["flattery"]


def _estimate(tallies: Sequence[tuple[int, Tally]], scores: Callable[[Sums], Scores]) -> dict[str, Estimate]:
    """Scenes are drawn with replacement; one scene's captions of all campaigns go together."""
    items = [Item(id=f"{n}", pictures=(), prompt="", cluster=f"{scene}") for n, (scene, _) in enumerate(tallies)]
    rule = Rule(main="", judge=lambda items, answers: [], scores=scores)
    return estimate(rule, items, [tally for _, tally in tallies], seed=0)
