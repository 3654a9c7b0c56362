import math

import pytest

from vila2_ray.evaluate.ranking import is_lower_better, richest_metric


def test_richest_first() -> None:
    everything = {
        "mean_logprob": -1.0,
        "reference_f1": 0.2,
        "object_f1": 0.5,
        "object_place_f1": 0.1,
        "vqa_accuracy": 0.4,
    }
    assert richest_metric(everything) == "object_place_f1"
    assert richest_metric({"mean_logprob": -1.0, "reference_f1": 0.2, "vqa_accuracy": 0.4}) == "vqa_accuracy"
    assert richest_metric({"mean_logprob": -1.0, "alt_text_recall": 0.2}) == "alt_text_recall"
    assert richest_metric({"mean_logprob": -1.0, "words_per_caption": 9.0}) == "mean_logprob"


def test_what_is_no_number_is_passed_over() -> None:
    assert richest_metric({"object_f1": math.nan, "vqa_accuracy": 0.4}) == "vqa_accuracy"


def test_nothing_to_go_by() -> None:
    with pytest.raises(ValueError, match="words_per_caption"):
        richest_metric({"words_per_caption": 9.0})


def test_direction() -> None:
    assert is_lower_better("hallucination_rate")
    assert not is_lower_better("object_place_f1")
