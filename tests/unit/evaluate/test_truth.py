"""Captions and answers against the truth of a scene."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from vila2_ray.evaluate.truth import (
    find_things,
    find_words,
    mark_things,
    normalise_answer,
    score_answers,
    score_captions,
)
from vila2_ray.recipes.tiny.world import NAMES, careful_caption, layout

TRUTH = {
    "objects": [
        {"name": "red apple", "size": "large", "place": "top left"},
        {"name": "cat", "size": "small", "place": "center"},
    ],
    "words": [{"text": "stop", "place": "bottom"}],
}
CAREFUL = "a large red apple at the top left, a small cat at the center. a sign reading stop at the bottom."


def things(caption):
    return [(thing.size, thing.name, thing.place) for thing in find_things(caption, NAMES)]


def test_the_careful_caption_of_any_scene_scores_full_marks():
    rng = random.Random(3)
    truths = [layout(rng, heldout=index % 2 == 0) for index in range(300)]
    scores = score_captions([careful_caption(truth) for truth in truths], truths)
    full = (scores.object_f1, scores.object_place_f1, scores.object_place_size_f1, scores.word_accuracy)
    assert full == (1, 1, 1, 1)
    assert (scores.hallucination_rate, scores.word_invention_rate) == (0, 0)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        (CAREFUL, [("large", "red apple", "top left"), ("small", "cat", "center")]),
        ("In the upper-left corner sits a big red apple.", [("large", "red apple", "top left")]),
        ("A cat at the left and at the right a dog.", [(None, "cat", "left"), (None, "dog", "right")]),
        ("two cats and a Soccer Ball in the middle", [(None, "cat", None)] * 2 + [(None, "soccer ball", "center")]),
        ("a cat at the top. The cat is small. there is no dog.", [(None, "cat", "top")]),
        ("a cat to the left of the bus at the bottom", [(None, "cat", None), (None, "bus", "bottom")]),
        ("a category of carpets", []),
        ("a sign reading bus", []),
        ("", []),
    ],
)
def test_things_are_found_in_free_captions(caption, expected):
    assert things(caption) == expected


def test_a_thing_named_twice_is_hallucinated_once():
    scores = score_captions(["a cat at the center, a cat at the top, a dog at the left."], [TRUTH])
    assert scores.object_precision == pytest.approx(1 / 3)
    assert scores.object_recall == pytest.approx(1 / 2)
    assert scores.hallucination_rate == pytest.approx(2 / 3)
    marked = [(thing.name, right) for thing, right in mark_things("a cat, a cat, a dog", TRUTH)]
    assert marked == [("cat", True), ("cat", False), ("dog", False)]


def test_marks_point_at_the_name_in_the_caption():
    caption = "Big CAT in the lower-right, upper-left: a red apple"
    marked = mark_things(caption, TRUTH)
    assert [caption[thing.start : thing.stop].lower() for thing, _ in marked] == ["cat", "red apple"]


def test_place_and_size_count_only_together_with_the_name():
    scores = score_captions(["a small red apple at the top left, a small cat at the top."], [TRUTH])
    assert (scores.object_f1, scores.object_place_f1, scores.object_place_size_f1) == (1, 0.5, 0)


def test_words_read_from_signs():
    assert find_words('a sign that says "STOP". another reading: open') == ["stop", "open"]
    scores = score_captions(["a sign reading stop.", "a sign reading open."], [TRUTH, TRUTH])
    assert (scores.word_accuracy, scores.word_invention_rate) == (0.5, 0.5)
    assert scores.words_per_caption == 4


def test_nothing_said_scores_nothing_and_hallucinates_nothing():
    scores = score_captions([""], [TRUTH])
    assert (scores.object_f1, scores.hallucination_rate, scores.words_per_caption) == (0, 0, 0)
    with pytest.raises(ValueError, match="0 captions for 1 scenes"):
        score_captions([], [TRUTH])


def test_answers_by_kind():
    where = [("where", "top left", "At the top-left."), ("where", "top", "left")]
    scores = score_answers([*where, ("exist", "yes", "Yes")])
    assert scores == {"exist": 1, "where": 0.5, "all": 0.75}
    assert normalise_answer("The Top-Left.") == "top left"
    assert score_answers([]) == {}


def test_importing_it_loads_no_torch():
    code = "import sys, vila2_ray.evaluate.truth; sys.exit('torch' in sys.modules or 'ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
