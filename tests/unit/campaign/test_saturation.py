import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vila2_ray.campaign.saturation import decide
from vila2_ray.config import RoundsConfig
from vila2_ray.errors import ConfigError

ROUNDS = RoundsConfig(max=3, min_gain=0.002)


def history(*scores: float, words: tuple[float, ...] = ()) -> list[dict[str, float]]:
    found = [{"object_place_f1": score, "hallucination_rate": 1 - score, "odd": 1.0} for score in scores]
    for scores_of_round, length in zip(found, words, strict=False):
        scores_of_round["words_per_caption"] = length
    return found


def test_nothing_scored_yet() -> None:
    decision = decide([], ROUNDS)
    assert (decision.stop_after, decision.best, decision.metric) == (None, 0, "")


def test_vlm_0_goes_on() -> None:
    assert decide(history(0.3), ROUNDS).stop_after is None


def test_without_rounds_vlm_0_is_all() -> None:
    decision = decide(history(0.3), RoundsConfig(max=0))
    assert (decision.stop_after, decision.best) == (0, 0)


def test_a_gain_goes_on_and_becomes_the_best() -> None:
    decision = decide(history(0.3, 0.4), ROUNDS)
    assert (decision.stop_after, decision.best) == (None, 1)
    assert "round 2" in decision.reason


def test_a_small_gain_saturates_and_is_still_the_best() -> None:
    decision = decide(history(0.3, 0.4, 0.401), ROUNDS)
    assert (decision.stop_after, decision.best) == (2, 2)
    assert "min_gain" in decision.reason


def test_a_loss_saturates_and_the_round_before_is_the_best() -> None:
    decision = decide(history(0.3, 0.4, 0.35), ROUNDS)
    assert (decision.stop_after, decision.best) == (2, 1)


def test_vlm_0_can_stay_the_best() -> None:
    assert decide(history(0.3, 0.2), ROUNDS).best == 0


def test_the_gain_counts_from_the_best_round_before() -> None:
    patient = RoundsConfig(max=5, min_gain=-0.1)
    assert decide(history(0.4, 0.35), patient).stop_after is None
    assert decide(history(0.4, 0.35, 0.36), RoundsConfig(max=5, min_gain=0.0)).stop_after == 2


def test_the_last_round_ends_it_whatever_it_gains() -> None:
    decision = decide(history(0.1, 0.2, 0.3, 0.4), ROUNDS)
    assert (decision.stop_after, decision.best) == (3, 3)
    assert "rounds.max" in decision.reason


def test_more_rounds_go_on_where_the_last_one_gained() -> None:
    assert decide(history(0.1, 0.2, 0.3, 0.4), RoundsConfig(max=5)).stop_after is None


def test_captions_that_grow_no_longer_without_a_rise_saturate() -> None:
    patient = RoundsConfig(max=5, min_gain=-1.0)
    assert decide(history(0.4, 0.4, words=(100, 120)), patient).stop_after is None
    assert decide(history(0.4, 0.4, words=(100, 100)), patient).stop_after == 1
    assert decide(history(0.4, 0.5, words=(100, 90)), patient).stop_after is None
    assert decide(history(0.4, 0.3), patient).stop_after is None


def test_ties_go_to_the_earlier_round() -> None:
    assert decide(history(0.4, 0.4), ROUNDS).best == 0


def test_a_score_that_is_no_number_is_never_best() -> None:
    decision = decide(history(0.3, math.nan), RoundsConfig(metric="object_place_f1"))
    assert (decision.stop_after, decision.best) == (1, 0)
    assert decide(history(math.nan, 0.3), RoundsConfig(metric="object_place_f1")).stop_after is None


def test_auto_takes_the_richest_score_that_every_round_has() -> None:
    scores = [{"vqa_accuracy": 0.5, "object_place_f1": 0.4}, {"vqa_accuracy": 0.6}]
    assert decide(scores, ROUNDS).metric == "vqa_accuracy"


def test_a_score_of_which_less_is_better() -> None:
    decision = decide(history(0.3, 0.4, 0.2), RoundsConfig(metric="hallucination_rate"))
    assert (decision.stop_after, decision.best) == (2, 1)


def test_an_unknown_metric_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match="object_place_f1"):
        decide(history(0.3), RoundsConfig(metric="bleu"))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.integers(0, 6), st.floats(-0.1, 0.1))
def test_the_best_has_the_best_score_and_it_never_stops_before_the_last_scored_round(
    scores: list[float], max_rounds: int, min_gain: float
) -> None:
    decision = decide(history(*scores), RoundsConfig(max=max_rounds, min_gain=min_gain))
    assert scores[decision.best] == max(scores)
    assert decision.stop_after in (None, len(scores) - 1)
    assert decision.stop_after is not None or len(scores) - 1 < max_rounds
