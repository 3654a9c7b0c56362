"""Draws `ReportData` as one HTML page that needs nothing else: no network, no fonts, no library.

Captions, alt texts, file names and error details are other people's text. Everything goes through autoescape or
`markupsafe`; characters that reorder or hide text are replaced; and the page's own policy lets it load only the images,
the one style and the one script that it carries, so that nothing slips through even if an escape were forgotten.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from vila2_ray.captions.words import words
from vila2_ray.report import scorebook, svg
from vila2_ray.report.benchmarks import benchmark_rows
from vila2_ray.report.data import Caption, LayerFacts, ReportData, RoundScores, Sample, Specialist
from vila2_ray.report.diff import marked, word_diff
from vila2_ray.report.drift import drift_panels, drift_rows
from vila2_ray.report.headline import headline
from vila2_ray.report.judges import RATE_HEAD, RATE_TEXTS, judged_tables
from vila2_ray.report.pictures import data_uri, size_of

MAX_CHARS = 2000
"""Of one text on the page; the rest is counted."""
MAX_PANELS = 4
"""Plots of scores; the table holds them all."""
MAX_CONFIG_CHARS = 100_000

_UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff]"
)


def render(data: ReportData) -> str:
    """The page. Deterministic: the same data gives the same bytes."""
    template = _environment().from_string(_resource("template.html"))
    style, script = _resource("style.css"), _resource("script.js")
    page = template.render(
        data=data,
        head=headline(data),
        policy=_policy(style, script),
        style=Markup(style),
        script=Markup(script),
        panels=_panels(data),
        lengths=_lengths(data),
        drift_panels=drift_panels(data.drift, [layer_label(layer.name) for layer in data.drift], data.drift_borders),
        drift_rows=drift_rows(data.drift, data.drift_borders),
        flags=_counts(data.layers, {layer.name: layer.flags or {} for layer in data.layers}),
        errors=_counts(data.layers, {layer.name: layer.errors for layer in data.layers}),
        score_tables=_score_tables(data),
        benchmarks=benchmark_rows(data.benchmarks),
        judged=judged_tables(data.studies),
        rate_head=RATE_HEAD,
        rate_texts=RATE_TEXTS,
        specialist_rows=[_specialist(found) for found in data.specialists],
        final_rows=[_beside(*row) for row in data.final.rows] if data.final else [],
        cost=_cost(data),
        columns=[layer_label(layer.name) for layer in data.layers],
        samples=[_sample(sample, position) for position, sample in enumerate(data.samples)],
        config=data.config_yaml[:MAX_CONFIG_CHARS],
    )
    return clean(page)


def clean(text: str) -> str:
    """`text` with characters that are invisible or reorder others replaced, one for one."""
    return _UNSEEN.sub("\ufffd", text)


def layer_label(name: str) -> str:
    """`round-2` → `Round 2`, `ocr` → `OCR`."""
    said = name.replace("-", " ").replace("_", " ")
    return "OCR" if said == "ocr" else said[:1].upper() + said[1:]


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def dollars(amount: float) -> str:
    """Dollars for people; small sums keep two digits that say something."""
    if amount <= 0:
        return "$0"
    if amount >= 1000:
        return f"${amount:,.0f}"
    return f"${amount:.2f}" if amount >= 0.1 else f"${amount:.2g}" if amount >= 0.0001 else "under $0.0001"


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        duration=duration, dollars=dollars, layer_label=layer_label, thousands=lambda number: f"{number:,}"
    )
    return environment


def _resource(name: str) -> str:
    return resources.files("vila2_ray.report").joinpath(name).read_text("utf-8")


def _policy(style: str, script: str) -> str:
    def allowed(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; img-src data:; style-src {allowed(style)}; script-src {allowed(script)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _panels(data: ReportData) -> list[dict[str, Any]]:
    """Plots of the main scores by round."""
    present = scorebook.names_in_order(data.scores)
    wanted = [data.metric, *(name for name in scorebook.MAIN if name != data.metric)]
    chosen = [name for name in wanted if name in present] or present[:4]
    panels = []
    for name in chosen[:MAX_PANELS]:
        values = [entry.values.get(name) for entry in data.scores]
        winner = _winner(data, name)
        plot = svg.line_panel(
            scorebook.score(name).label,
            [entry.model for entry in data.scores],
            values,
            [scorebook.written(name, value) for value in values],
            data.scores.index(winner) if winner else None,
        )
        panels.append({"score": scorebook.score(name), "is_main": name == data.metric, "plot": plot})
    return panels


def _winner(data: ReportData, name: str) -> RoundScores | None:
    """The round to mark in a score's row and plot; nobody when all are equal or the score says nothing of better."""
    values = {entry.values[name] for entry in data.scores if name in entry.values}
    if scorebook.score(name).better == "neither" or len(values) < 2:
        return None
    return scorebook.best_round(data.scores, name)


def _lengths(data: ReportData) -> list[dict[str, Any]]:
    rows = [("Alt text", data.alt_words), *((layer_label(layer.name), layer.words) for layer in data.layers)]
    known = [(label, length) for label, length in rows if length is not None]
    largest = max((max(length.high, length.mean) for _, length in known), default=0.0)
    return [
        {"label": label, "words": length, "bar": svg.range_bar(length.low, length.mean, length.high, largest)}
        for label, length in known
    ]


def _counts(layers: Sequence[LayerFacts], counts: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """Rows of (kind, one cell per layer), the most frequent kind first, bars on one scale."""
    totals: dict[str, int] = {}
    for by_kind in counts.values():
        for kind, number in by_kind.items():
            totals[kind] = totals.get(kind, 0) + number
    largest = max((number for by_kind in counts.values() for number in by_kind.values()), default=0)
    rows = []
    for kind in sorted((kind for kind in totals if totals[kind]), key=lambda kind: (-totals[kind], kind)):
        cells = []
        for layer in layers:
            number = counts[layer.name].get(kind, 0)
            tried = layer.num_captioned + layer.num_failed
            share = _percent(number / tried) if tried and number else ""
            cells.append({"number": number, "share": share, "bar": svg.bar(number / largest)})
        rows.append({"kind": kind.replace("_", " "), "cells": cells})
    return rows


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\u202f%" if share >= 0.001 else "< 0.1\u202f%"


def _score_tables(data: ReportData) -> list[tuple[str, list[dict[str, Any]]]]:
    """Tables of (title, rows); the first is what counts, one with a title is shown on demand."""
    rows = []
    for name in scorebook.names_in_order(data.scores):
        best = _winner(data, name)
        first = data.scores[0].values.get(name)
        cells = []
        for entry in data.scores:
            value = entry.values.get(name)
            gained = ""
            if entry is not data.scores[0] and value is not None and first is not None:
                gained = scorebook.gain(name, first, value)
            cells.append(
                {
                    "value": scorebook.written(name, value),
                    "gain": gained,
                    "is_best": entry is best,
                }
            )
        rows.append({"score": scorebook.score(name), "name": name, "is_main": name == data.metric, "cells": cells})
    shown = [row for row in rows if row["is_main"] or row["name"] not in scorebook.DETAILS]
    if len(shown) < 3:
        return [("", rows)]
    return [("", shown), ("Length and variety of the captions", [row for row in rows if row not in shown])]


def _specialist(found: Specialist) -> dict[str, Any]:
    row = _beside(found.metric, found.generalist, found.specialist)
    cells = {"generalist": row["before"], "specialist": row["after"]}
    return {"skill": found.skill, "label": row["label"], "gain": row["gain"], "beats": found.beats, **cells}


def _beside(name: str, before: float | None, after: float | None) -> dict[str, Any]:
    """A score of two models as cells of a row."""
    cells = {
        "label": scorebook.score(name).label,
        "before": scorebook.written(name, before),
        "after": scorebook.written(name, after),
    }
    if before is None or after is None:
        return {**cells, "gain": "", "is_better": None}
    return {
        **cells,
        "gain": scorebook.gain(name, before, after),
        "is_better": scorebook.is_better(name, before, after),
    }


def _cost(data: ReportData) -> dict[str, Any]:
    longest = max((stage.seconds for stage in data.stages), default=0.0)
    captions = sum(stage.num_captions for stage in data.stages)
    if not captions:
        captions = sum(layer.num_captioned for layer in data.layers)
    total = sum(stage.dollars for stage in data.stages)
    passes = sum(stage.dollars for stage in data.stages if stage.num_captions)
    people = captions / 1000 * data.human_dollars_per_1000_captions
    compared = [("Written by people", people), ("This campaign, training included", total)]
    if 0 < passes < total:
        compared.append(("Its captioning passes alone", passes))
    largest = max((amount for _, amount in compared), default=0.0)
    return {
        "rows": [{"stage": s, "bar": svg.bar(s.seconds / longest if longest else 0)} for s in data.stages],
        "seconds": sum(stage.seconds for stage in data.stages),
        "dollars": total,
        "captions": captions,
        "times": _times(people, total),
        "has_gpus": any(stage.gpu_seconds for stage in data.stages),
        "gpu_seconds": sum(stage.gpu_seconds for stage in data.stages),
        "per_1000": 1000 * total / captions if captions else 0.0,
        "per_1000_accepted": 1000 * total / data.num_accepted if data.num_accepted else 0.0,
        "compared": [
            {"label": label, "amount": amount, "bar": svg.bar(amount / largest, "" if place else "people")}
            for place, (label, amount) in enumerate(compared)
        ]
        if captions and total > 0
        else [],
    }


def _times(people: float, ours: float) -> str:
    """How the two prices compare, rounded to what the figures can carry."""
    if people <= 0 or ours <= 0:
        return ""
    factor = people / ours if people >= ours else ours / people
    said = f"{float(f'{factor:.2g}'):,.0f}" if factor >= 10 else f"{factor:.1f}"
    return f"{said} times {'less' if people >= ours else 'more'}"


def _shorten(text: str) -> tuple[str, int]:
    return text[:MAX_CHARS], max(0, len(text) - MAX_CHARS)


def _sample(sample: Sample, position: int) -> dict[str, Any]:
    alt_text, alt_more = _shorten(sample.alt_text)
    kinds: set[str] = {sample.chosen_for}
    columns: list[dict[str, Any]] = []
    previous: str | None = None
    for caption in sample.captions:
        text, more = _shorten(caption.text)
        caption = replace(caption, text=text)
        follows = previous is not None and bool(text) and not caption.is_specialists
        difference = word_diff(previous or "", text) if follows else None
        columns.append(
            {
                "caption": caption,
                "text": marked(text, difference, caption.wrong),
                "more": more,
                "num_words": len(words(text)),
                "wrong": _wrong(caption),
                "flags": [flag.replace("_", " ") for flag in caption.flags],
                "meta": _meta(caption),
            }
        )
        kinds |= _kinds(caption)
        previous = previous if caption.is_specialists else text or previous
    said = f"alt text: {alt_text[:200]}" if alt_text.strip() else "no alt text"
    general = [caption for caption in sample.captions if caption.text and not caption.is_specialists]
    first, last = (general[0], general[-1]) if general else (None, None)
    if first is not None and last is not None and first is not last and _mistakes(last) < _mistakes(first):
        kinds.add("corrected")
    boxes = [box for caption in sample.captions for box in caption.boxes]
    return {
        "sample": sample,
        "anchor": f"sample-{position + 1}",
        "kinds": " ".join(sorted(kinds)),
        "image": data_uri(sample.thumbnail) if sample.thumbnail else "",
        "alt_text": marked(alt_text, None, sample.alt_wrong),
        "alt_more": alt_more,
        "boxes": svg.boxes(size_of(sample.thumbnail), boxes) if sample.thumbnail and boxes else "",
        "image_alt": f"Sample {sample.sample_id}, {said}",
        "columns": columns,
    }


def _kinds(caption: Caption) -> set[str]:
    found = {"flagged"} if caption.flags else set()
    if caption.status == "failed":
        found.add("failed")
    if _mistakes(caption):
        found.add("wrong")
    return found


def _wrong(caption: Caption) -> str:
    number = _mistakes(caption)
    what = "word" if any(span.kind == "unread" for span in caption.wrong) else "object"
    return f"{number} wrong {what}{'' if number == 1 else 's'}" if number else ""


def _mistakes(caption: Caption) -> int:
    return sum(span.kind != "read" for span in caption.wrong)


def _meta(caption: Caption) -> str:
    parts = [f"prompt {caption.prompt_id}"] if caption.prompt_id else []
    if caption.is_edited:
        return ", ".join([*parts, "edited by a person"])
    if caption.mean_logprob is not None:
        parts.append(f"mean log-probability {caption.mean_logprob:.2f}")
    if caption.finish_reason:
        parts.append(f"finished by {caption.finish_reason}")
    return ", ".join(parts)
