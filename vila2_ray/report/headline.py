"""The report's first sentences: what became better, in numbers, or that nothing did."""

from __future__ import annotations

from dataclasses import dataclass

from vila2_ray.report import scorebook
from vila2_ray.report.data import ReportData, RoundScores


@dataclass(frozen=True)
class Figure:
    """One number of the summary strip."""

    label: str
    value: str
    before: str = ""
    gain: str = ""
    is_better: bool | None = None


@dataclass(frozen=True)
class Headline:
    title: str
    lede: str
    figures: tuple[Figure, ...]


def headline(data: ReportData) -> Headline:
    """What a reader should know who reads nothing else."""
    lede = _lede(data)
    first = next((entry for entry in data.scores if entry.round == 0), data.scores[0] if data.scores else None)
    best = scorebook.best_round(data.scores, data.metric)
    if first is None or best is None or data.metric not in first.values:
        captions = sum(layer.num_captioned for layer in data.layers)
        if captions:
            return Headline(f"{captions:,} captions in {_count(len(data.layers), 'layer')}, not scored yet", lede, ())
        return Headline("Nothing has been captioned or scored yet", lede, ())
    name, before = scorebook.score(data.metric), first.values[data.metric]
    later = [entry for entry in data.scores if entry.round > first.round and data.metric in entry.values]
    label = name.label if any(map(str.isupper, name.label.split()[0][1:])) else name.label[:1].lower() + name.label[1:]
    if not later:
        title = f"{first.model} reaches {scorebook.written(data.metric, before)} {label}; no round has followed yet"
        return Headline(title, lede, _figures(data, first, first))
    if best.round == first.round:
        best_later = scorebook.best_round(later, data.metric)
        assert best_later is not None
        title = (
            f"No round beat {first.model} on {label}: {scorebook.written(data.metric, best_later.values[data.metric])} "
            f"at best, {scorebook.written(data.metric, before)} before"
        )
        return Headline(title, lede, _figures(data, first, best_later))
    after = best.values[data.metric]
    verb = "raised" if after > before else "lowered"
    points = " points" if name.is_share else ""
    title = (
        f"{_count(best.round, 'round')} of recaptioning its own corpus {verb} {label} from "
        f"{scorebook.written(data.metric, before)} to {scorebook.written(data.metric, after)} "
        f"({scorebook.gain(data.metric, before, after)}{points})"
    )
    return Headline(title[:1].upper() + title[1:], lede, _figures(data, first, best))


def _lede(data: ReportData) -> str:
    parts = []
    if data.layers:
        captions = sum(layer.num_captioned for layer in data.layers)
        failed = sum(layer.num_failed for layer in data.layers)
        parts.append(
            f"The model wrote {captions:,} captions for {data.num_corpus_samples:,} samples in "
            f"{_count(len(data.layers), 'layer')}"
            + (f", and {_count(failed, 'row')} failed" if failed else "")
            + "; every round was trained again from the same base weights."
        )
    best = scorebook.best_round(data.scores, data.metric)
    if best is not None and len(data.scores) > 1:
        first = data.scores[0]
        current = next((entry.model for entry in data.promotions if entry.is_current), "")
        compared = best if best.round != first.round else None
        says = f"The figures compare {compared.model} with {first.model}" if compared else ""
        if current:
            says = f"{says}; {current} is promoted" if says else f"{current} is promoted"
        if says:
            parts.append(says + ".")
    return " ".join(parts)


def _figures(data: ReportData, first: RoundScores, best: RoundScores) -> tuple[Figure, ...]:
    figures = []
    names = [data.metric, *(name for name in scorebook.MAIN if name != data.metric)]
    names = [name for name in names if name in best.values][:4]
    names += ["words_per_caption"] if "words_per_caption" in best.values and data.metric != "words_per_caption" else []
    for name in names:
        label, value = scorebook.score(name).label, scorebook.written(name, best.values[name])
        if best is first or name not in first.values:
            figures.append(Figure(label, value))
            continue
        before, after = first.values[name], best.values[name]
        gained = scorebook.gain(name, before, after)
        figures.append(
            Figure(label, value, scorebook.written(name, before), gained, scorebook.is_better(name, before, after))
        )
    return tuple(figures)


_NUMBER_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def _count(number: int, noun: str) -> str:
    said = _NUMBER_WORDS[number] if 0 <= number < len(_NUMBER_WORDS) else f"{number:,}"
    return f"{said} {noun}" + ("" if number == 1 else "s")
