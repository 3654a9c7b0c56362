"""Which caption of a sample is picked, and when none is."""

from __future__ import annotations

import math
from typing import Any

import pytest

from vila2_ray.captions.pick import agreements, pick
from vila2_ray.config import FallbackConfig, PickConfig


def caption(text: str = "a red cat", mean: float | None = -0.5, low: float | None = -1.0) -> dict[str, Any]:
    return {"text": text, "mean_logprob": mean, "min_logprob": low}


THREE = [caption(mean=-0.5, low=-9.0), caption(mean=-0.2, low=-5.0), caption(mean=-0.8, low=-1.0)]


def test_the_best_by_each_log_probability() -> None:
    assert pick(THREE, PickConfig("mean_logprob")) == 1
    assert pick(THREE, PickConfig("min_logprob")) == 2


def test_the_first_of_equals_and_nothing_of_nothing() -> None:
    assert pick([caption(), caption()], PickConfig("mean_logprob")) == 0
    assert pick([], PickConfig("mean_logprob")) is None


def test_a_score_that_is_no_number_loses() -> None:
    assert pick([caption(mean=math.nan), caption(mean=None), caption(mean=-3.0)], PickConfig("mean_logprob")) == 2
    assert pick([caption(mean=None)], PickConfig("mean_logprob")) == 0, "an engine without log-probabilities"


@pytest.mark.parametrize(
    ("fallback", "picked"),
    [
        (FallbackConfig(min_mean_logprob=-0.2), 1),
        (FallbackConfig(min_mean_logprob=-0.1), None),
        (FallbackConfig(min_min_logprob=-5.0), 1),
        (FallbackConfig(min_min_logprob=-4.9), None),
    ],
)
def test_the_alt_text_stays_where_the_best_falls_short(fallback: FallbackConfig, picked: int | None) -> None:
    assert pick(THREE, PickConfig("mean_logprob", fallback_alt_text=fallback)) == picked


def test_the_draw_that_agrees_most_with_the_others() -> None:
    draws = [caption("a blue dog runs far"), caption("a red cat sits left"), caption("a red cat sits right")]
    assert pick(draws, PickConfig("agreement")) == 1
    assert agreements([d["text"] for d in draws]) == pytest.approx([0.2, 0.5, 0.5])
    strict = PickConfig("agreement", fallback_alt_text=FallbackConfig(min_agreement=0.6))
    assert pick(draws, strict) is None
    assert pick(draws[:1], strict) == 0, "nobody disagrees with a caption that is alone"


def test_draws_without_a_word_agree() -> None:
    assert agreements(["!", "…"]) == [1.0, 1.0]


def test_the_scorer_lets_the_alt_text_compete() -> None:
    scorer = PickConfig("scorer", scorer="folder")
    assert pick(THREE, scorer, [0.1, 0.3, 0.2], 0.25) == 1
    assert pick(THREE, scorer, [0.1, 0.3, 0.2], 0.3) is None
    assert pick(THREE, scorer, [-0.1, -0.3, -0.2], None) == 0, "no alt text, no competition"
    wide = PickConfig("scorer", scorer="folder", fallback_alt_text=FallbackConfig(min_scorer_margin=0.1))
    assert pick(THREE, wide, [0.1, 0.3, 0.2], 0.25) is None
