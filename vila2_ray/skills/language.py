"""The language of a text as far as its script alone tells it."""

from __future__ import annotations

import unicodedata
from collections import Counter

_LANGUAGES = {
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "HANGUL": "ko",
    "CJK": "zh",
    "THAI": "th",
    "LAO": "lo",
    "KHMER": "km",
    "MYANMAR": "my",
    "GREEK": "el",
    "HEBREW": "he",
    "ARMENIAN": "hy",
    "GEORGIAN": "ka",
    "TAMIL": "ta",
    "TELUGU": "te",
    "KANNADA": "kn",
    "MALAYALAM": "ml",
    "GUJARATI": "gu",
    "GURMUKHI": "pa",
    "SINHALA": "si",
}
"""First word of a letter's Unicode name → the one language (ISO 639-1) that is commonly written with it."""
_MIN_SHARE = 0.5


def script_language(text: str) -> str:
    """ISO 639-1 code of the language that most letters can only belong to; "" where the script leaves it open.

    Latin, Cyrillic, Arabic and Devanagari letters belong to many languages. Han characters are told as `zh`, unless
    there is kana among them: `ja`.
    """
    letters = (char for char in text if unicodedata.category(char) in ("Lu", "Ll", "Lo"))
    scripts = [unicodedata.name(letter, "").split(" ")[0] for letter in letters]
    told = Counter(_LANGUAGES[script] for script in scripts if script in _LANGUAGES)
    if told["ja"]:
        told["ja"] += told.pop("zh", 0)
    code, num = told.most_common(1)[0] if told else ("", 0)
    return code if num > _MIN_SHARE * len(scripts) else ""
