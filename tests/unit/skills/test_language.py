"""Languages told by script."""

from __future__ import annotations

import pytest

from vila2_ray.skills.language import script_language


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("营业时间 9:00", "zh"),
        ("いらっしゃいませ", "ja"),
        ("東京タワーへ", "ja"),
        ("안녕하세요", "ko"),
        ("สวัสดี", "th"),
        ("ΕΞΟΔΟΣ", "el"),
        ("יציאה", "he"),
        ("OPEN", ""),
        ("ВЫХОД", ""),
        ("مخرج", ""),
        ("Bar 酒", ""),
        ("12:30 — 18:00", ""),
        ("", ""),
    ],
)
def test_the_script_tells_the_language_or_nothing(text: str, language: str) -> None:
    assert script_language(text) == language
