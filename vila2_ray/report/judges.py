"""What people and models say of the captions: win rates as cells with bars, agreement as small tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vila2_ray.errors import Vila2Error
from vila2_ray.evaluate.rules.tally import Estimate
from vila2_ray.judge.winning import Figures, WinRate, figures_of
from vila2_ray.report import svg
from vila2_ray.report.data import JudgedStudy

if TYPE_CHECKING:
    from vila2_ray.campaign.api import Campaign


def collect_studies(campaign: Campaign, notes: list[str]) -> tuple[JudgedStudy, ...]:
    """Studies that anybody has voted in, most votes first; a note for one that cannot be read."""
    from vila2_ray.campaign.studies import list_studies, open_study

    try:
        voted = [summary for summary in list_studies(campaign) if summary.num_votes]
    except (Vila2Error, LookupError) as error:
        notes.append(f"Not all that judges say could be read. {error}")
        return ()
    found = []
    for summary in sorted(voted, key=lambda summary: -sum(summary.num_votes.values())):
        try:
            found.append(JudgedStudy(summary.name, figures_of(open_study(campaign, summary.name))))
        except (Vila2Error, LookupError) as error:
            notes.append(f"Not all that judges say could be read. {error}")
    return tuple(found)


def judged_tables(studies: Sequence[JudgedStudy]) -> list[dict[str, Any]]:
    """Of each study: a row for two layers and a judge, a cell for each criterion; then who agrees with whom."""
    return [
        {
            "name": study.name,
            "criteria": [criterion.capitalize() for criterion in study.figures.criteria],
            "rows": _rows(study.figures),
            "details": rate_rows(study.figures),
            "agreement": agreement_tables(study.figures),
            "told": silent_votes(study.figures),
        }
        for study in studies
        if study.figures.rates
    ]


RATE_HEAD = (
    *("First", "Second", "Judge", "Criterion", "Images", "Wins", "Losses", "Ties"),
    *("Win rate", "95 %", "Without ties", "95 %"),
)
RATE_TEXTS = 4
"""So many columns hold words."""


def rate_rows(figures: Figures) -> list[tuple[str, ...]]:
    """Every rate with its counts, as RATE_HEAD names them; wins are the second layer's."""
    return [
        (
            rate.first,
            rate.second,
            rate.judge,
            rate.criterion,
            f"{rate.num_images + rate.num_equal:,}",
            *(_decimal(part) for part in (rate.second_wins, rate.first_wins, rate.ties)),
            percent(rate.rate.value),
            between(rate.rate),
            percent(rate.rate_without_ties.value),
            between(rate.rate_without_ties),
        )
        for rate in figures.rates
    ]


def agreement_tables(figures: Figures) -> list[dict[str, Any]]:
    """Tables of (title, about, head, rows), only such as have rows."""
    people = [
        (row.criterion, f"{row.num_raters:,}", f"{row.num_pairs:,}", percent(row.share), _plain(row.alpha))
        for row in figures.agreement
    ]
    themselves = [
        (f"{row.rater}: {row.criterion}", f"{row.num_pairs:,}", percent(row.same), percent(row.left))
        for row in figures.steadiness
    ]
    with_people = [
        (
            f"{row.rater}: {row.criterion}",
            f"{row.num_pairs:,}",
            percent(row.same),
            f"{row.num_decided:,}",
            percent(row.same_decided),
        )
        for row in figures.against_people
    ]
    tables = (
        (
            "People with each other",
            "On pairs that several judged: how often two of them say the same, and Krippendorff's alpha, which is 0 "
            "where that is chance and 1 where all agree.",
            ("Criterion", "Raters", "Pairs", "Agree", "Alpha"),
            people,
        ),
        (
            "Models with themselves",
            "On pairs judged in both orders: how often the answer stays, and how many of the choices stood first; "
            "half is no bias.",
            ("Judge", "Pairs", "The same", "Stood first"),
            themselves,
        ),
        (
            "Models with people",
            "How often a model says what most people say: ties included, and where both prefer one of the two, "
            "where half is chance.",
            ("Judge", "Pairs", "The same", "Both prefer one", "The same one"),
            with_people,
        ),
    )
    names = ("title", "about", "head", "rows")
    return [dict(zip(names, table, strict=True)) for table in tables if table[-1]]


def silent_votes(figures: Figures) -> str:
    """Votes that answer nothing, in words."""
    told = [f"{figures.num_passed_over:,} passed over"] if figures.num_passed_over else []
    told += [f"{figures.num_problems:,} could not be judged"] if figures.num_problems else []
    return "; ".join(told)


def percent(share: float | None) -> str:
    return "–" if share is None or math.isnan(share) else f"{100 * share:.1f}\u202f%"


def _rows(figures: Figures) -> list[dict[str, Any]]:
    by_row: dict[tuple[str, str, str], dict[str, WinRate]] = {}
    for rate in figures.rates:
        by_row.setdefault((rate.first, rate.second, rate.judge), {})[rate.criterion] = rate
    return [
        {
            "first": first,
            "second": second,
            "judge": judge,
            "about": _about(list(by_criterion.values())),
            "cells": [_cell(by_criterion.get(criterion)) for criterion in figures.criteria],
        }
        for (first, second, judge), by_criterion in by_row.items()
    ]


def _about(rates: Sequence[WinRate]) -> str:
    images, raters = max(rate.num_images + rate.num_equal for rate in rates), max(rate.num_raters for rate in rates)
    equal = max(rate.num_equal for rate in rates)
    parts = [f"{images:,} image{'' if images == 1 else 's'}"]
    parts += [f"{equal:,} of them alike"] if equal else []
    parts += [f"{raters:,} raters"] if raters > 1 else []
    return ", ".join(parts)


def _cell(rate: WinRate | None) -> dict[str, Any]:
    if rate is None:
        return {"value": "–", "interval": "", "bar": ""}
    bar = svg.share_bar(rate.rate.low, rate.rate.value, rate.rate.high)
    return {"value": percent(rate.rate.value), "interval": between(rate.rate), "bar": bar}


def between(estimate: Estimate) -> str:
    """`64.9–77.8`; the value beside it has the unit."""
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return ""
    return f"{100 * estimate.low:.1f}–{100 * estimate.high:.1f}"


def _decimal(number: float) -> str:
    """Whole where it is: images are shared out where raters differ."""
    return f"{number:,.0f}" if abs(number - round(number)) < 0.005 else f"{number:,.1f}"


def _plain(number: float | None) -> str:
    return "–" if number is None else f"{number:.2f}"
