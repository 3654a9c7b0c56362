"""CIDEr and CHAIR: tokens, a value worked out by hand, objects as captions name them."""

from __future__ import annotations

import math

import pytest

from vila2_ray.captions.cider import ciders
from vila2_ray.evaluate.rules.captioning import tokens
from vila2_ray.evaluate.rules.coco_objects import SYNONYMS, names
from vila2_ray.evaluate.rules.hallucination import named_objects


@pytest.mark.parametrize(
    ("caption", "told"),
    [
        ("A man's dog doesn't run.", "a man 's dog does n't run"),
        ("Two t-shirts, 3.5 feet; 1,000!", "two t-shirts 3.5 feet 1,000"),
        ("It’s 7:30 (about)", "it 's 7:30 -lrb- about -rrb-"),
        ("Mr. X cannot eat 1/2 and/or all at 5 o'clock.", "mr. x can not eat 1/2 and/or all at 5 o'clock"),
        ("a red-and-white bus...", "a red-and-white bus"),
        ('the "stop" sign', "the stop sign"),
        ("", ""),
    ],
)
def test_words_of_captions(caption: str, told: str) -> None:
    assert " ".join(tokens(caption)) == told


def test_cider_of_two_images_by_hand() -> None:
    references = [[["a", "red", "bus"], ["a", "bus"]], [["a", "cat"]]]
    same, other = ciders([["a", "red", "bus"], ["a", "dog"]], references)
    # `a` is in both images and weighs log 1 = 0; all else of image 1 weighs w = log 2, once each.
    # Against "a red bus": words (red, bus), pairs, one triple: cosines 1, 1, 1; no run of four: 0
    # Against "a bus": words: bus of (red, bus), 1 ÷ √2; pairs: none of (a bus); one word shorter, exp(−1/72)
    first = (1 + 1 + 1 + 0) / 4
    second = math.exp(-1 / 72) * (1 / math.sqrt(2)) / 4
    assert same == pytest.approx(10 * (first + second) / 2)
    assert other == 0.0
    assert ciders([], []) == []


@pytest.mark.parametrize(
    ("caption", "objects"),
    [
        ("Two men and a woman on bikes", ["person", "person", "bicycle"]),
        ("a hot dog and a dog", ["hot dog", "dog"]),
        ("an orange cat by oranges and an orange", ["cat", "orange", "orange"]),
        ("an orange is on a plate", ["orange"]),
        ("a teddy bear with a real bear", ["teddy bear", "bear"]),
        ("a baby elephant behind its mother elephant", ["elephant", "elephant"]),
        ("a stuffed dog on the couch", ["couch"]),
        ("a tennis player hits the tennis ball on a tennis court", ["person", "sports ball"]),
        ("a phone booth by the train station", []),
        ("knives, wine glasses and a wine bottle", ["knife", "wine glass", "bottle"]),
        ("no catastrophe in the carpet", []),
        ("a kitchen with a stove, a fridge and a sink", ["oven", "refrigerator", "sink"]),
        ("", []),
    ],
)
def test_objects_as_captions_name_them(caption: str, objects: list[str]) -> None:
    assert named_objects(caption) == objects


def test_all_of_cocos_classes_are_known_and_no_phrase_is_of_two() -> None:
    assert len(SYNONYMS) == 80
    assert set(names().values()) == {*SYNONYMS, ""}
    phrases = [phrase.strip() for name, others in SYNONYMS.items() for phrase in (name, *others.split(","))]
    phrases = [" ".join(phrase.split()) for phrase in phrases if phrase.strip()]
    assert len(set(phrases)) == len(phrases)
