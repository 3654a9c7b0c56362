"""Languages of printed lines: by script, and for Latin letters by py3langid, from the line or else from the page."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vila2_ray.skills.language import script_language
from vila2_ray.skills.printed import words_of
from vila2_ray.skills.things import Line

MIN_CONFIDENCE = 0.6
"""Probability below which a language stays untold: at it, single words and names stay so, short sentences are told."""
MIN_WORDS = 3
"""Fewer words than this tell nothing, however sure the identifier is."""


def tell_languages(lines: Sequence[Line]) -> tuple[Line, ...]:
    """The lines with their languages (ISO 639-1), "" where neither script, line nor the whole page tells it."""
    scripts = [script_language(line.text) for line in lines]
    page = _identified(" ".join(line.text for line, script in zip(lines, scripts, strict=True) if not script))
    return tuple(
        replace(line, language=script or (_identified(line.text) or page) * any(map(str.isalpha, line.text)))
        for line, script in zip(lines, scripts, strict=True)
    )


def _identified(text: str) -> str:
    if len(words_of(text)) < MIN_WORDS:
        return ""
    language, _ = _identifier().classify(text.lower())  # capitals are rare in what it was trained on
    return language if len(language) == 2 else ""  # of three letters: not of 639-1, or undetermined


@functools.cache
def _identifier() -> Any:
    from py3langid import langid

    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True, min_confidence=MIN_CONFIDENCE)
