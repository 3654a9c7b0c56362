"""Figures of a study at the terminal, for people and for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby, zip_longest
from typing import Any

from rich.markup import escape
from rich.table import Column, Table

from vila2_ray.campaign.studies import StudySummary
from vila2_ray.cli_tables import console
from vila2_ray.judge.winning import Figures, WinRate
from vila2_ray.report.judges import agreement_tables, between, percent, silent_votes


def print_studies(title: str, studies: Sequence[StudySummary]) -> None:
    """A row for each study, with who has voted how often."""
    counts = [Column(name, justify="right") for name in ("pairs", "equal", "votes")]
    table = Table("study", "layers", *counts, "raters", title=title, title_justify="left")
    for study in studies:
        raters = ", ".join(f"{rater} {number:,}" for rater, number in study.num_votes.items())
        numbers = (study.num_pairs, study.num_equal, sum(study.num_votes.values()))
        table.add_row(study.name, ", ".join(study.layers), *(f"{number:,}" for number in numbers), escape(raters))
    console().print(table)


def print_figures(name: str, figures: Figures) -> None:
    """Win rates, then who agrees with whom."""
    if not figures.rates:
        print(f"{figures.num_pairs:,} pairs; nobody has judged one yet")
        return
    out = console()
    for (first, second), rates in groupby(figures.rates, key=lambda rate: (rate.first, rate.second)):
        title = escape(f"{name}: how often {second} is better than {first}, ties half")
        out.print(_rates(title, list(rates)))
    for told in agreement_tables(figures):
        table = _table(told["title"].lower(), [head.lower() for head in told["head"]], 1)
        for row in told["rows"]:
            table.add_row(*map(escape, row))
        out.print(table)
    if silent := silent_votes(figures):
        out.print(f"votes without an answer: {silent}")


def print_json(figures: Figures) -> None:
    """The same with every digit; what is not a number is null."""
    print(json.dumps(_plain(asdict(figures)), indent=1))


def _rates(title: str, rates: Sequence[WinRate]) -> Table:
    """Of two layers: narrow enough for any terminal; --json has every count."""
    table = _table(title, ("judge", "criterion", "images", "wins", "95 %", "of decided"), 2)
    for rate, following in zip_longest(rates, rates[1:]):
        told = (f"{rate.num_images + rate.num_equal:,}", percent(rate.rate.value), between(rate.rate))
        ends_section = following is not None and following.judge != rate.judge
        cells = (rate.judge, rate.criterion, *told, percent(rate.rate_without_ties.value))
        table.add_row(*map(escape, cells), end_section=ends_section)
    return table


def _table(title: str, head: Sequence[str], num_texts: int) -> Table:
    columns = [Column(name, justify="left" if place < num_texts else "right") for place, name in enumerate(head)]
    return Table(*columns, title=title, title_justify="left")


def _plain(value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):
        return None
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value
