"""What drift is watched by: refusals in many wordings, sketches that can be joined, collapses that are told."""

from __future__ import annotations

import functools
import operator
import random
from collections.abc import Sequence

import pytest

from vila2_ray.captions.drift import Sketch, Watched, collapses, figures, is_refusal, sketch
from vila2_ray.config import DriftConfig

PROMPT = "Describe this picture in detail: everything that is in it, how each thing looks and where it is."
THINGS = ("cat", "dog", "car", "guitar", "apple", "lamp", "boat", "chair")
COLOURS = ("red", "blue", "green", "brown", "white")


def healthy(number: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    texts = []
    for _ in range(number):
        first, second, third = rng.sample(THINGS, 3)
        colour, other = rng.sample(COLOURS, 2)
        texts.append(f"The image shows a {colour} {first} beside a {other} {second}. There is also a {third}.")
    return texts


def watched(texts: Sequence[str], previous: Sequence[str] | None = None, alt_text: str = "x", cut: bool = False):
    before: Sequence[str | None] = previous if previous is not None else [None] * len(texts)
    return [Watched(t, PROMPT, cut, alt_text, p) for t, p in zip(texts, before, strict=True)]


def told(texts: Sequence[str], before: dict[str, float] | None = None) -> list[str]:
    return collapses(figures(sketch(watched(texts))), before or {}, DriftConfig())


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I cannot describe this image.",
        "I’m sorry, I can’t help with that.",
        "I am unable to view images.",
        "Sorry, I can't see the picture.",
        "I apologize, but there is nothing I can do.",
        "I cannot assist with that request.",
        "I do not have the ability to see images.",
        "As an AI language model, I cannot see.",
        "Unfortunately, I am not able to do this.",
        "It is not possible for me to describe it.",
        "There is no image provided.",
        "No image was attached to your message.",
        "Please provide the image you would like me to describe.",
        "\"I'm afraid I can't do that.\"",
        "I couldn't make out anything.",
    ],
)
def test_refusals(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "A sign says: sorry, we are closed.",
        "In the foreground a man apologizes to a dog.",
        "I see a cat on a mat.",
        "The image shows an ice cream.",
        "A poster with the words I can not wait.",
        "There is no person in the picture, only a boat.",
        "Noise fills the whole frame.",
    ],
)
def test_descriptions_are_no_refusals(text: str) -> None:
    assert not is_refusal(text)


def test_a_healthy_layer_has_not_collapsed() -> None:
    found = figures(sketch(watched(healthy(200), healthy(200, seed=1))))
    assert found["share_starting_alike"] < 0.2, "though all begin with: The image shows a"
    assert collapses(found, found, DriftConfig()) == []
    assert 10 < found["words_per_caption"] < 20
    assert 0 < found["previous_similarity"] < 1


@pytest.mark.parametrize(
    ("texts", "name"),
    [
        (["a cat on a mat by the door"] * 100, "share_identical"),
        ([f"the image shows a very big {word}" for word in THINGS * 13], "share_starting_alike"),
        ([" … "] * 90 + healthy(10), "empty_share"),
        (["I'm sorry, I cannot help."] * 40 + healthy(60), "refusal_share"),
        (["Describe this picture in detail: a cat."] * 40 + healthy(60), "prompt_echo_share"),
        ([" ".join(["a red cat"] * 20)] * 100, "repeated_4gram_share"),
        (["cat"] * 100, "words_per_caption"),
        (["x x"] * 100, "alt_text_similarity"),
    ],
)
def test_a_collapse_is_told_with_figure_and_border(texts: list[str], name: str) -> None:
    found = figures(sketch(watched(texts, alt_text="x x")))
    sentences = collapses(found, {}, DriftConfig())
    assert any(sentence.startswith(f"{name} is ") and "m" in sentence.split(", ")[1] for sentence in sentences)


def test_unfinished_captions_are_those_that_were_cut_off() -> None:
    texts = [text.rstrip(".") for text in healthy(100)]
    found = figures(sketch(watched(texts, cut=True)))
    assert found["unfinished_share"] == 1.0
    assert any(s.startswith("unfinished_share is 1") for s in collapses(found, {}, DriftConfig()))
    assert figures(sketch(watched(texts, cut=False)))["unfinished_share"] == 0.0
    assert figures(sketch(watched(healthy(9), cut=True)))["unfinished_share"] == 0.0, "they end as sentences do"


def test_the_previous_round_is_compared_with() -> None:
    before = figures(sketch(watched(healthy(100))))
    assert told(healthy(100), before) == []
    shrunk = told(["red cat"] * 50 + ["blue dog"] * 50, before)
    assert any("words_per_caption against" in s and "min_words_ratio" in s for s in shrunk)
    assert any("vocabulary against" in s and "min_vocabulary_ratio" in s for s in shrunk)
    strange = figures(sketch(watched(["zwei drei vier"] * 40, healthy(40))))
    assert any(s.startswith("previous_similarity is 0") for s in collapses(strange, {}, DriftConfig()))


def test_a_few_captions_show_nothing() -> None:
    assert told(["cat"] * 29) == []
    assert told(["cat"] * 30) != []
    assert figures(sketch([])) == {}
    assert told([]) == []


def test_parts_join_in_any_order_to_the_whole() -> None:
    captions = watched(healthy(300), healthy(300, seed=2))
    parts = [Sketch.from_json(sketch(captions[at : at + 70]).to_json()) for at in range(0, 300, 70)]
    whole = figures(sketch(captions))
    for order in (parts, parts[::-1]):
        joined = figures(functools.reduce(operator.add, order, Sketch()))
        assert joined == pytest.approx(whole)


def test_memory_is_bounded_and_the_vocabulary_is_estimated() -> None:
    total = Sketch()
    for shard in range(20):
        texts = [f"word{shard * 1000 + i} begins here and thing{i}" for i in range(1000)]
        total += sketch(watched(texts))
    assert len(total.to_json()) < 50_000
    assert figures(total)["vocabulary"] == pytest.approx(20_000 + 1000 + 3, rel=0.1)
