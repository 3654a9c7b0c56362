import math

import pytest

from vila2_ray.report import scorebook
from vila2_ray.report.data import RoundScores

from .pages import round_scores


def test_values_are_written_for_people() -> None:
    assert scorebook.written("object_f1", 0.4716) == "47.2\u202f%"
    assert scorebook.written("words_per_caption", 24.13) == "24.1"
    assert scorebook.written("vocabulary", 12345.0) == "12345"
    assert scorebook.written("object_f1", None) == scorebook.written("object_f1", math.nan) == "–"


def test_gains_are_points_of_shares() -> None:
    assert scorebook.gain("object_f1", 0.357, 0.472) == "+11.5"
    assert scorebook.gain("hallucination_rate", 0.228, 0.219) == "−0.9"
    assert scorebook.gain("object_f1", 0.5, 0.5000001) == "±0"
    assert scorebook.gain("mean_logprob", -1.5, -1.25) == "+0.25"


@pytest.mark.parametrize(
    ("name", "label", "better"),
    [
        ("vqa_where_accuracy", "Questions: where", "higher"),
        ("some_loss", "Some loss", "lower"),
        ("num_captions", "Num captions", "neither"),
        ("skipped_share", "Skipped share", "lower"),
        ("brand_new_score", "Brand new score", "higher"),
    ],
)
def test_unknown_scores_are_read_by_their_names(name: str, label: str, better: str) -> None:
    assert (scorebook.score(name).label, scorebook.score(name).better) == (label, better)


def test_better_depends_on_the_score() -> None:
    assert scorebook.is_better("object_f1", 0.1, 0.2) is True
    assert scorebook.is_better("hallucination_rate", 0.1, 0.2) is False
    assert scorebook.is_better("words_per_caption", 1, 2) is None


def test_the_best_round_is_the_earliest_of_equals_and_never_nan() -> None:
    best = scorebook.best_round(round_scores(0.3, 0.5, 0.5, math.nan), "object_place_f1")
    assert best is not None
    assert best.round == 1
    lowest = scorebook.best_round(round_scores(0.3, 0.2, name="hallucination_rate"), "hallucination_rate")
    assert lowest is not None
    assert lowest.round == 1
    assert scorebook.best_round(round_scores(0.3), "no_such_score") is None


def test_known_scores_come_first() -> None:
    names = ("zz", "aa", "vqa_where_accuracy", "object_recall", "vqa_accuracy", "object_place_f1")
    entry = RoundScores(0, "VLM_0", dict.fromkeys(names, 0.5))
    expected = ["object_place_f1", "vqa_accuracy", "vqa_where_accuracy", "object_recall", "aa", "zz"]
    assert scorebook.names_in_order([entry]) == expected
