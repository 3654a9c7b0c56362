"""Drift on the page: a plot for each figure over the rounds, and a table with the borders of collapse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from vila2_ray.config import DriftConfig
from vila2_ray.report import svg
from vila2_ray.report.data import LayerDrift


@dataclass(frozen=True)
class _Figure:
    name: str
    label: str
    border: str = ""
    """Field of DriftConfig that a single layer is held against."""
    is_share: bool = True


FIGURES = (
    _Figure("words_per_caption", "Words per caption", "min_words_per_caption", is_share=False),
    _Figure("vocabulary", "Different words", is_share=False),
    _Figure("repeated_4gram_share", "Repeated 4-grams", "max_repeated_4gram_share"),
    _Figure("share_starting_alike", "Captions that start alike", "max_share_starting_alike"),
    _Figure("share_identical", "Identical captions", "max_share_identical"),
    _Figure("refusal_share", "Refusals", "max_refusal_share"),
    _Figure("prompt_echo_share", "Prompt echoes", "max_prompt_echo_share"),
    _Figure("unfinished_share", "Unfinished captions", "max_unfinished_share"),
    _Figure("empty_share", "Empty captions", "max_empty_share"),
    _Figure("alt_text_similarity", "Similarity to the alt text", "max_alt_text_similarity"),
    _Figure("previous_similarity", "Similarity to the round before", "min_previous_similarity"),
)


def drift_panels(
    layers: Sequence[LayerDrift], names: Sequence[str], borders: Mapping[str, str]
) -> list[dict[str, Any]]:
    """A plot for each figure that some layer has; `names` [N] stand for the layers [N]."""
    panels = []
    for figure in FIGURES:
        values = [layer.figures.get(figure.name) for layer in layers]
        if any(value is not None for value in values):
            plot: Markup = svg.line_panel(figure.label, names, values, [_written(figure, v) for v in values], None)
            panels.append({"label": figure.label, "border": borders.get(figure.name, ""), "plot": plot})
    return panels


def drift_rows(layers: Sequence[LayerDrift], borders: Mapping[str, str]) -> list[dict[str, Any]]:
    """The same as rows of a table, with the border of each figure."""
    rows = []
    for figure in FIGURES:
        values = [layer.figures.get(figure.name) for layer in layers]
        if any(value is not None for value in values):
            cells = [_written(figure, value) for value in values]
            rows.append({"label": figure.label, "cells": cells, "border": borders.get(figure.name, "")})
    return rows


def drift_borders(config: DriftConfig) -> dict[str, str]:
    """Figure → its border for people: `at most 30 %`."""
    found = {}
    for figure in FIGURES:
        if figure.border:
            side = "at most" if figure.border.startswith("max_") else "at least"
            found[figure.name] = f"{side} {_written(figure, getattr(config, figure.border))}"
    return found


def _written(figure: _Figure, value: float | None) -> str:
    if value is None:
        return "–"
    if figure.is_share:
        return f"{100 * value:.0f}\u202f%" if value in (0, 1) else f"{100 * value:.1f}\u202f%"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}".removesuffix(".0")
