"""A collapsed layer stops the campaign and says why; a healthy one leaves its figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from vila2_ray.campaign.layout import Layout
from vila2_ray.campaign.plan import Stage
from vila2_ray.campaign.watching import read_drift, watch
from vila2_ray.captions.drift import Watched, sketch
from vila2_ray.config import DriftConfig
from vila2_ray.errors import StageFailed
from vila2_ray.progress import NullProgress
from vila2_ray.storage import Store

STAGE = Stage("filter-2", "filter", 2, ("recaption-2",))
HEALTHY = sketch(Watched(f"Thing {i} of {i * 7} lies near place {i * 3}.", "tell", False) for i in range(50))
ALIKE = sketch(Watched("A cat that is always the same cat.", "tell", False) for _ in range(50))


class Notes(NullProgress):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def test_a_healthy_layer_leaves_figures(tmp_path: Path) -> None:
    layout, notes = Layout(Store(tmp_path)), Notes()
    found = watch(layout, STAGE, HEALTHY, {}, "aa", DriftConfig(), notes)
    assert found["words_per_caption"] == 8.0
    assert read_drift(layout, "round-2", "aa") == (found, [])
    assert "words_per_caption 8" in notes.said[0]


def test_a_collapse_stops_with_figures_borders_and_remedies(tmp_path: Path) -> None:
    layout = Layout(Store(tmp_path))
    with pytest.raises(StageFailed) as failed:
        watch(layout, STAGE, ALIKE, {}, "aa", DriftConfig(), NullProgress())
    said = str(failed.value)
    for part in (
        "filter-2",
        "round-2",
        "share_identical is 1, max_share_identical = 0.5",
        "'a cat that is always the'",
    ):
        assert part in said
    for remedy in ("vila2 show --layer round-2", "--from recaption-2", "recaption.prompts", "drift.stop=false"):
        assert remedy in said
    figures, collapses = read_drift(layout, "round-2", "aa")
    assert figures["share_identical"] == 1.0
    assert len(collapses) == 2
    assert read_drift(layout, "round-2", "other") == ({}, []), "the figures of an older layer tell nothing"


def test_a_collapse_is_only_told_of_where_that_is_wanted(tmp_path: Path) -> None:
    notes = Notes()
    watch(Layout(Store(tmp_path)), STAGE, ALIKE, {}, "aa", DriftConfig(stop=False), notes)
    assert any("round-2 has collapsed" in said and "drift.stop is off" in said for said in notes.said)


def test_a_layer_without_captions_has_no_figures(tmp_path: Path) -> None:
    assert watch(Layout(Store(tmp_path)), STAGE, sketch([]), {}, "aa", DriftConfig(), NullProgress()) == {}
