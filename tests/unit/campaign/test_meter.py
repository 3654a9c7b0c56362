"""What a driver's meter keeps of what it hears."""

from __future__ import annotations

import time
from typing import Any

import pytest

from vila2_ray.campaign import meter as meters
from vila2_ray.campaign.meter import Meter


class Clock:
    """Stands still until it is moved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(meters.time, "monotonic", lambda: self.now)


def values(meter: Meter) -> dict[tuple[str, ...], float]:
    return {(value.metric.name, *value.labels): value.value for value in meter.values()}


def test_a_stage_is_followed_from_its_beginning_to_its_end() -> None:
    borders: list[str] = []
    meter = Meter("c", on_border=lambda: borders.append("border"))
    with meter.stage("recaption-1", {}):
        meter.start("round-1", 100, "images")
        meter.update(40, captions=38, **{"dead_letters.no_image": 2}, failed="2")
        live = meter.live()
        assert (live.stage, live.step, live.done, live.total, live.unit) == (
            "recaption-1",
            "round-1",
            40,
            100,
            "images",
        )
        assert live.figures == {"captions": 38.0}
        assert live.dead_letters == {"no_image": 2}
        assert values(meter) == {
            ("captions", "recaption-1"): 38.0,
            ("dead_letters", "recaption-1", "no_image"): 2.0,
            ("stage_running", "recaption-1"): 1.0,
            ("stage_done", "recaption-1", "images"): 40.0,
            ("stage_total", "recaption-1", "images"): 100.0,
        }
    assert borders == ["border", "border"]
    assert meter.live().stage == ""
    assert ("stage_running", "recaption-1") not in values(meter), "Ray forgets a gauge that is set no more"


def test_counters_grow_over_all_that_a_stage_counts() -> None:
    meter = Meter("c")
    with meter.stage("recaption-1", {}):
        for captions in (10, 25):
            meter.start("round-1", 0, "images")
            meter.update(1, captions=captions // 2)
            meter.update(2, captions=captions)
    with meter.stage("recaption-2", {}):
        meter.start("round-2", 0, "images")
        meter.update(1, captions=7)
    assert values(meter)["captions", "recaption-1"] == 35.0
    assert values(meter)["captions", "recaption-2"] == 7.0
    assert meter.live().dead_letters == {}


def test_a_gauge_goes_with_its_step() -> None:
    meter = Meter("c")
    with meter.stage("sft-0", {}):
        meter.start("vlm-0 sft", 10, "steps")
        meter.update(3, loss=1.25, lr=1e-4)
        assert values(meter)["train_loss", "sft-0"] == 1.25
        meter.finish()
        assert ("train_loss", "sft-0") not in values(meter)


def test_the_rate_is_of_the_last_minute_and_not_of_earlier_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, meter = Clock(monkeypatch), Meter("c")
    meter.start("round-1", 10_000, "images")
    meter.update(4000)  # an earlier run's
    assert meter.live().rate == 0.0
    for second in range(1, 201):
        clock.now = 1000.0 + second
        meter.update(4000 + (10 * second if second <= 100 else 1000 + 2 * (second - 100)))
    live = meter.live()
    assert live.rate == pytest.approx(2.0, rel=0.05)
    assert live.seconds_left == pytest.approx((10_000 - 5200) / live.rate)
    clock.now += 240
    assert meter.live().rate < 0.5, "nothing has come for a while"


@pytest.mark.parametrize("told", ["now", "before"])
def test_what_filters_found_stays(told: str) -> None:
    meter, summary = Meter("c"), {"flags": {"captions": 100, "kept": 80, "refusal": 20, "samples": 50, "alt_text": 1}}
    figures: dict[str, Any] = {}
    if told == "now":
        with meter.stage("filter-1", figures):
            figures.update(summary)
    else:
        meter.finished("filter-1", summary)
        meter.finished("screen", {"flags": {"pretrain": {"samples": 3}}})
    assert values(meter) == {
        ("captions_judged", "filter-1"): 100.0,
        ("captions_kept", "filter-1"): 80.0,
        ("captions_flagged", "filter-1", "refusal"): 20.0,
    }


def test_a_failure_is_told_and_raised() -> None:
    meter = Meter("c")
    with pytest.raises(KeyError), meter.stage("sft-0", {}):
        raise KeyError("x")


def test_hearing_costs_next_to_nothing() -> None:
    meter = Meter("c")
    meter.start("round-1", 0, "images")
    told = {"captions": 1, "output_tokens": 2, "ranges_left": 3, "dead_letters.no_image": 4}
    began = time.thread_time()
    for done in range(2000):
        meter.update(done, **told)
    assert (time.thread_time() - began) / 2000 < 1e-3, "an update comes with a range of 256 rows or a training step"
