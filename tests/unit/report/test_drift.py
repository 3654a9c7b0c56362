"""Drift on the page: a plot and a row for each figure there is, and the collapse said in words."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.report.pages import Page, drifting, example
from vila2_ray.captions.drift import Watched, collapses, figures, sketch
from vila2_ray.config import DriftConfig
from vila2_ray.report.drift import FIGURES, drift_borders, drift_panels, drift_rows
from vila2_ray.report.render import render


def test_a_plot_for_each_figure_that_some_layer_has() -> None:
    panels = drift_panels(drifting(), ["Round 1", "Round 2"], drift_borders(DriftConfig()))
    assert [panel["label"] for panel in panels] == [
        "Words per caption",
        "Different words",
        "Identical captions",
        "Refusals",
        "Similarity to the round before",
    ]
    assert "Round 1 0.1\u202f%, Round 2 93.0\u202f%" in panels[2]["plot"]
    assert panels[2]["border"] == "at most 50.0\u202f%"
    assert panels[1]["border"] == ""


def test_rows_tell_the_borders() -> None:
    rows = drift_rows(drifting(), drift_borders(DriftConfig()))
    assert rows[0] == {"label": "Words per caption", "cells": ["101", "101"], "border": "at least 2"}
    assert rows[-1]["cells"] == ["–", "41.0\u202f%"]


def test_every_figure_and_border_that_is_watched_is_shown() -> None:
    watched = figures(sketch([Watched("a cat.", "say", False, "a dog", "a cow")] * 40))
    assert set(watched) - {"num_captions"} == {figure.name for figure in FIGURES}
    told = {sentence.split(" is ")[0] for sentence in collapses(watched, {}, DriftConfig())}
    assert told <= set(drift_borders(DriftConfig()))


def test_a_collapse_stands_on_the_page() -> None:
    html = render(replace(example(), drift=drifting("share_identical is 0.93, max_share_identical = 0.5")))
    page = Page(html)
    assert page.errors == []
    assert "Round 2 has collapsed:" in page.text
    assert "share_identical is 0.93, max_share_identical = 0.5." in page.text
    assert 'id="drift"' not in render(example()), "nothing was watched, nothing is shown"
