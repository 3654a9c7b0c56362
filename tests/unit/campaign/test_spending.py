"""What captions cost, per 1,000 written and kept; each caption counted once."""

from __future__ import annotations

import pytest

from vila2_ray.campaign.ledger import Entry, Spent, spent_by_stage
from vila2_ray.campaign.spending import caption_costs
from vila2_ray.campaign.state import Marker
from vila2_ray.cli_tables import cost_lines


def entry(stage: str, dollars: float, finished: bool = True, **figures: int) -> Entry:
    return Entry("1-a", stage, 1.0, 60.0, dollars, finished, dict(figures), gpu_seconds=30.0)


def judged(stage: str, captions: int, kept: int) -> Marker:
    return Marker(stage, "f" * 64, {}, {}, "", 1, summary={"flags": {"captions": captions, "kept": kept, "refusal": 1}})


ENTRIES = [
    entry("pretrain-0", 30.0),
    entry("recaption-1", 1.0, finished=False),
    entry("recaption-1", 4.0, num_captioned=400),  # the killed attempt's captions are in no entry
    entry("recaption-2", 5.0, num_captioned=700),
]
SPENT = spent_by_stage(ENTRIES)


def test_all_attempts_of_a_stage_are_summed() -> None:
    assert SPENT["recaption-1"] == Spent(120.0, 60.0, 5.0)
    assert list(SPENT) == ["pretrain-0", "recaption-1", "recaption-2"]


def test_layers_that_were_judged_are_counted_by_the_filters_and_others_by_the_ledger() -> None:
    costs = caption_costs(SPENT, ENTRIES, {"filter-1": judged("filter-1", 1000, 800)}, 36.0)
    assert (costs.num_captions, costs.num_accepted) == (1700, 800)
    assert (costs.dollars, costs.dollars_of_passes) == (40.0, 10.0)
    both = {"filter-1": judged("filter-1", 1000, 800), "filter-2": judged("filter-2", 1000, 700)}
    costs = caption_costs(SPENT, ENTRIES, both, 36.0)
    assert (costs.num_captions, costs.num_accepted) == (2000, 1500)
    assert costs.per_1000(costs.dollars) == pytest.approx(20.0)
    assert costs.per_1000_accepted(costs.dollars_of_passes) == pytest.approx(10_000 / 1500)


def test_filters_that_judge_all_layers_anew_count_none_twice() -> None:
    both = {"filter-1": judged("filter-1", 1000, 800), "filter-2": judged("filter-2", 2000, 1600)}
    costs = caption_costs(SPENT, ENTRIES, {**both, "filter-ocr": judged("filter-ocr", 10, 5)}, 36.0, judges_all=True)
    assert (costs.num_captions, costs.num_accepted) == (2010, 1605)


def test_a_retried_layer_is_counted_where_it_is_judged() -> None:
    again = [*ENTRIES, entry("recaption-1-retry-1", 0.5, num_captioned=9)]
    marker = {"filter-1": judged("filter-1", 1000, 800)}
    assert caption_costs(spent_by_stage(again), again, marker, 36.0).num_captions == 1700


def test_the_sentences_carry_their_arithmetic() -> None:
    costs = caption_costs(SPENT, ENTRIES, {"filter-1": judged("filter-1", 1000, 800)}, 36.0)
    assert cost_lines(costs) == [
        "captioning alone: $10.00 for 1,700 captions, $5.88 per 1,000; $12.50 per 1,000 of the 800 kept",
        "training and judging included: $40.00 for 1,700 captions, $23.53 per 1,000; $50.00 per 1,000 of the 800 kept",
        "people: $36 per 1,000 (VILA²)",
    ]
    assert cost_lines(caption_costs({}, [], {}, 36.0)) == []
