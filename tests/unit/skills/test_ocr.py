"""Conversations about printed text, from the lines that were read."""

from __future__ import annotations

import random

import pytest

from vila2_ray.captions.boxes import Box
from vila2_ray.skills.flags import says_no_text
from vila2_ray.skills.ocr import MAX_WORDS, NO_TEXT, converse, describe, provenance
from vila2_ray.skills.things import Annotation, Line

PROMPTS, QUESTIONS = ("read it", "write it down"), ("what is written?", "which words?")
NOTHING = Annotation(lines=())


def annotation(*texts: str, height: int = 50) -> Annotation:
    """Lines one below the other."""
    boxes = (Box(100, 60 * row, 900, 60 * row + height) for row in range(len(texts)))
    return Annotation(lines=tuple(Line(text, box, 0.9) for text, box in zip(texts, boxes, strict=True)))


def talk(known: Annotation, seed: int = 0, kept_empty: float = 1.0) -> list[tuple[str, str]]:
    return converse(known, random.Random(seed), PROMPTS, QUESTIONS, kept_empty)


def test_the_description_is_the_text_in_one_line() -> None:
    assert describe(annotation("Fresh  bread", "every\nday"), random.Random()) == "Fresh bread every day"
    assert describe(NOTHING, random.Random()) == NO_TEXT
    assert describe(Annotation(), random.Random()) == "", "not known is not nothing"
    assert says_no_text(NO_TEXT), "flags and scores take it for what it means"


def test_long_pages_are_read_up_to_the_end_of_a_line() -> None:
    long = annotation(*["seven words are in each single line"] * 40)
    said = describe(long, random.Random()).split()
    assert MAX_WORDS - 7 < len(said) <= MAX_WORDS
    assert len(said) % 7 == 0
    assert len(describe(annotation("word " * 400), random.Random()).split()) == 400, "a line is never cut"


def test_nothing_is_asked_where_nothing_is_known() -> None:
    assert talk(Annotation()) == []
    assert talk(Annotation(things=())) == []


@pytest.mark.parametrize("known", [annotation("stop"), annotation("Fresh bread", "every day"), NOTHING])
def test_a_conversation_opens_with_the_text(known: Annotation) -> None:
    openings = set()
    for seed in range(40):
        (human, answer), *rest = talk(known, seed)
        assert human in PROMPTS + QUESTIONS
        assert answer == describe(known, random.Random())
        assert ("is there text in the image?", "no" if known is NOTHING else "yes") in rest
        openings.add(human)
    assert openings == {*PROMPTS, *QUESTIONS}, "from both lists"


def test_a_single_short_line_is_asked_for_as_a_sign() -> None:
    asked = {pair for seed in range(30) for pair in talk(annotation("STOP"), seed)[1:]}
    assert ("what does the sign say?", "STOP") in asked
    asked = {pair for seed in range(30) for pair in talk(annotation("a line of more than four words"), seed)[1:]}
    assert not any("sign" in question for question, _ in asked)


def test_the_uppermost_and_the_lowest_line_are_asked_for() -> None:
    asked = dict(talk(annotation("Bakery", "fresh bread", "since 1904"))[1:])
    assert asked["what is the text at the top?"] == "Bakery"
    assert asked["what is the text at the bottom?"] == "since 1904"
    side_by_side = Annotation(lines=(Line("in", Box(0, 0, 100, 50)), Line("out", Box(500, 0, 600, 50))))
    assert set(dict(talk(side_by_side)[1:])) == {"is there text in the image?"}, "neither is uppermost"


def test_conversations_follow_from_the_seed() -> None:
    known = annotation("Bakery", "fresh bread")
    assert talk(known, 3) == talk(known, 3)
    assert len({tuple(talk(known, seed)) for seed in range(30)}) > 5, "and order is shuffled"


def test_only_a_share_of_the_images_without_text_is_kept() -> None:
    made = [bool(talk(NOTHING, seed, kept_empty=0.2)) for seed in range(2000)]
    assert 0.15 < sum(made) / len(made) < 0.25
    assert not any(talk(NOTHING, seed, kept_empty=0.0) for seed in range(50))


def test_by_default_no_text_is_at_most_a_third_where_seven_images_in_ten_have_none() -> None:
    rng = random.Random(1)
    known = [NOTHING if number % 10 < 7 else annotation("stop") for number in range(3000)]
    answers = [made[0][1] for one in known if (made := converse(one, rng, PROMPTS, QUESTIONS))]
    assert 0.25 < answers.count(NO_TEXT) / len(answers) < 1 / 3


def test_what_is_kept_of_how_it_was_read() -> None:
    box = Box(0, 0, 9, 9)
    lines = (Line("Open", box, 0.9, "en"), Line("营业", box, 0.7, "zh"), Line("24", box, 0.8))
    kept = provenance(Annotation(lines=lines))
    assert kept == {
        "num_lines": 3,
        "mean_confidence": pytest.approx(0.8),
        "min_confidence": 0.7,
        "languages": ["en", "zh"],
    }
    assert provenance(NOTHING) == {"num_lines": 0, "mean_confidence": None, "min_confidence": None, "languages": []}
