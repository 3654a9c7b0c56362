"""Printed words: what counts as the same word, how much was read, how much was made up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vila2_ray.captions.boxes import Box
from vila2_ray.skills.printed import (
    character_error_rate,
    edit_distance,
    unread_words,
    word_accuracy,
    word_precision,
    words_of,
)
from vila2_ray.skills.things import Line

TEXT = st.text(alphabet=st.characters(codec="utf-8"), max_size=30)


def line(text: str) -> Line:
    return Line(text, Box(0, 0, 10, 10))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("STOP!", ["stop"]),
        ("“Café” — 24h", ["café", "24h"]),
        ("cafe\u0301", ["café"]),
        ("ＳＡＬＥ ﬁnal ②", ["sale", "final", "2"]),
        ("don’t", ["dont"]),
        ("co\u00adope\u200bration", ["cooperation"]),
        ("营业时间 9:00", ["营", "业", "时", "间", "9", "00"]),
        ("…—·", []),
    ],
)
def test_words_are_normalised(text: str, found: list[str]) -> None:
    assert words_of(text) == found


@pytest.mark.parametrize(
    ("said", "truth", "accuracy", "precision"),
    [
        ("stop", "STOP", 1, 1),
        ("stop here", ["stop", "there"], 0.5, 0.5),
        ("sale", ["sale", "SALE"], 0.5, 1),
        ("sale sale", "sale", 1, 0.5),
        ("park open", ("open", "park"), 1, 1),
        ("", "open", 0, 1),
        ("open", "", 1, 0),
        ("", [], 1, 1),
    ],
)
def test_words_are_counted_as_often_as_they_occur(said, truth, accuracy, precision) -> None:  # type: ignore[no-untyped-def]
    assert (word_accuracy(said, truth), word_precision(said, truth)) == (accuracy, precision)


def test_lines_of_an_annotation_are_as_good_as_texts() -> None:
    assert word_accuracy("open daily", [line("Open"), line("daily")]) == 1


def test_character_error_rate() -> None:
    assert character_error_rate("ST0P", "stop") == 0.25
    assert character_error_rate("here stop", "stop here") > 0.5, "order counts"
    assert character_error_rate("stop stop stop", "stop") == 2.5, "more than 1 where more is made up than there is"
    assert character_error_rate("营业", "营业时间") == 0.5, "no spaces between Chinese characters"
    assert character_error_rate("", []) == 0
    assert character_error_rate("x y z", "") == 1


def test_words_that_the_engine_did_not_read() -> None:
    lines = [line("Visitors WELCOME"), line("open")]
    assert unread_words("Visitors welcome, open", lines) == []
    assert unread_words("visitor welcame open", lines) == [], "one edit in a long word is the engine's"
    assert unread_words("opem exit exit", lines) == ["opem", "exit"], "short words are read or not; each is named once"
    assert unread_words("wonderful", []) == ["wonderful"]
    assert unread_words("", lines) == []


def test_a_lost_space_is_not_held_against_who_said_it() -> None:
    assert unread_words("visitors welcome", [line("VISITORSWELCOME")]) == []
    assert unread_words("visitors welcome", [line("VISI"), line("TORS welcome")]) == ["visitors"], "within a line only"
    assert unread_words("is it", [line("visitors")]) == ["is", "it"], "short words are in everything"


@given(TEXT, TEXT, TEXT)
def test_edit_distance_is_a_metric(a: str, b: str, c: str) -> None:
    assert (edit_distance(a, b) == 0) == (a == b)
    assert edit_distance(a, b) == edit_distance(b, a)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)


@given(TEXT)
def test_a_text_is_itself(text: str) -> None:
    assert word_accuracy(text, text) == word_precision(text, text) == 1
    assert character_error_rate(text, text) == 0
    assert unread_words(text, text) == []
