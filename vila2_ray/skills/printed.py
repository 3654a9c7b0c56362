"""Printed words compared: what was said to be written in an image against what is written there.

Words are those of `captions.words`, of compatibility-normalised text (NFKC): casefolded, punctuation left out, one
character each in Chinese and Japanese. They are compared as multisets: a word counts as often as it is printed, and
reading a page in another order costs nothing. The character error rate is the measure that order costs.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from vila2_ray.captions.words import words
from vila2_ray.skills.things import Line

Printed = str | Sequence[str | Line]
"""A text, or its lines."""

TOLERANT_LETTERS = 5
"""Words of at least so many letters are taken for the same when one edit lies between them."""
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff"))  # where a word may be broken; never printed
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_CJK_SPACE = re.compile(f"(?<=[{_CJK}]) (?=[{_CJK}])")


def words_of(text: str) -> list[str]:
    """The normalised words of a text, in order."""
    return words(unicodedata.normalize("NFKC", text).translate(_INVISIBLE))


def edit_distance(a: str, b: str) -> int:
    """Levenshtein distance: fewest characters put in, taken out or exchanged that make `b` of `a`."""
    return Levenshtein.distance(a, b)


def word_accuracy(said: str, truth: Printed) -> float:
    """Share of the true words that were said (multiset recall), in [0, 1]; 1 where there are none to say."""
    return _share(_count(truth), _count(said))


def word_precision(said: str, truth: Printed) -> float:
    """Share of the words said that are true (multiset precision), in [0, 1]; 1 where nothing was said."""
    return _share(_count(said), _count(truth))


def character_error_rate(said: str, truth: Printed) -> float:
    """Edits per true character between the normalised words, joined by spaces and in their order.

    In [0, ∞), not clipped: more than 1 where more was made up than there is. Without a true character it is 0 when
    nothing was said and 1 otherwise, so that a mean over images stays finite.
    """
    found, wanted = _joined(said), _joined(truth)
    if not wanted:
        return float(bool(found))
    return edit_distance(found, wanted) / len(wanted)


def unread_words(said: str, lines: Printed) -> list[str]:
    """The words said that are not among the printed ones, in order, each once.

    Words of `TOLERANT_LETTERS` and more may differ by one edit, and may be part of what was read without a space:
    engines confuse single letters and lose spaces, and neither is the fault of who said it.
    """
    read = set(_count(lines))
    glued = "".join(_joined(line).replace(" ", "") + "\n" for line in _lines(lines))
    return [word for word in dict.fromkeys(words_of(said)) if word not in read and not _is_near(word, read, glued)]


def _is_near(word: str, read: set[str], glued: str) -> bool:
    if len(word) < TOLERANT_LETTERS:
        return False
    return word in glued or any(Levenshtein.distance(word, other, score_cutoff=1) <= 1 for other in read)


def _share(of: Counter[str], among: Counter[str]) -> float:
    return (of & among).total() / of.total() if of else 1.0


def _lines(printed: Printed) -> list[str]:
    if isinstance(printed, str):
        return [printed]
    return [line if isinstance(line, str) else line.text for line in printed]


def _count(printed: Printed) -> Counter[str]:
    return Counter(word for line in _lines(printed) for word in words_of(line))


def _joined(printed: str | Line | Printed) -> str:
    if isinstance(printed, Line):
        printed = printed.text
    spaced = " ".join(word for line in _lines(printed) for word in words_of(line))
    return _CJK_SPACE.sub("", spaced)  # words there are single characters, no spaces are written between them
