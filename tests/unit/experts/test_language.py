"""Languages of printed lines: by script, line and page."""

from __future__ import annotations

from vila2_ray.captions.boxes import Box
from vila2_ray.experts.language import tell_languages
from vila2_ray.skills.things import Line


def told(*texts: str) -> list[str]:
    return [line.language for line in tell_languages([Line(text, Box(0, 0, 9, 9)) for text in texts])]


def test_sentences_of_latin_letters_are_told() -> None:
    assert told("Let us first determine markers of the coins and the") == ["en"]
    assert told("Das ist ein Haus am See und wir fahren morgen dorthin") == ["de"]
    assert told("ABIERTO TODOS LOS DIAS DE LA SEMANA") == ["es"]


def test_names_and_single_words_are_not_guessed() -> None:
    assert told("YAMAHA", "STOP", "24h") == ["", "", ""]
    assert told() == []


def test_short_lines_take_the_language_of_their_page() -> None:
    page = ("We bake fresh bread and cakes every morning", "Open", "9:00")
    assert told(*page) == ["en", "en", ""], "figures are of no language"


def test_scripts_are_told_apart_from_the_page() -> None:
    assert told("We bake fresh bread and cakes every morning", "营业时间") == ["en", "zh"]
