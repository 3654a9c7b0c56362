"""Words, sentences and n-grams of captions in any script, the way every count and comparison here takes them.

Words are casefolded runs of letters, digits and their marks, apostrophes dropped: `The dog's T-shirt` → `the dogs t
shirt`. Scripts written without spaces give one word a character (Chinese, Japanese) or a letter with its marks (Thai,
Lao, Khmer, Burmese), so that lengths are comparable in order of magnitude.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

Ngram = tuple[str, ...]

_APOSTROPHES = "'’ʼ＇"
_JOINERS = "\u200c\u200d"  # part of spelling in Persian and Indic scripts
_ALONE = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))
_UNSPACED = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF))
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’»)\]]*(?=\s)|[。！？]+[」』”’）]*|(?<=\S)\s*\n+")
# a single capital is an initial, but for A and I
_ABBREVIATED = re.compile(r"(?:^|[\s(])(?:(?i:mr|mrs|ms|dr|st|prof|vs|e\.g|i\.e|fig|approx|jr|sr)|[B-HJ-Z])\.$")


class _WordTable(dict[int, str]):
    """`str.translate` table, filled as characters are met: separators become spaces."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        if char in _APOSTROPHES or char in _JOINERS:
            kept = "" if char in _APOSTROPHES else char
        elif unicodedata.category(char)[0] not in "LNM":
            kept = " "
        elif any(low <= code <= high for low, high in _ALONE) and unicodedata.category(char)[0] == "L":
            kept = f" {char} "
        elif any(low <= code <= high for low, high in _UNSPACED) and unicodedata.category(char)[0] == "L":
            kept = f" {char}"  # marks that follow stay with it
        else:
            kept = char
        self[code] = kept
        return kept


_TABLE = _WordTable()


def words(text: str) -> list[str]:
    """The words of a text, casefolded."""
    return unicodedata.normalize("NFC", text).casefold().translate(_TABLE).split()


def sentences(text: str) -> list[str]:
    """The sentences of a text with their final punctuation; a line break ends one too, an abbreviation does not."""
    found, start = [], 0
    for end in _SENTENCE_END.finditer(text):
        if _ABBREVIATED.search(text[start : end.end()]):
            continue
        found.append(text[start : end.end()].strip())
        start = end.end()
    found.append(text[start:].strip())
    return [sentence for sentence in found if sentence]


def ends_sentence(text: str) -> bool:
    """Whether the text's last character, closing quotes and brackets aside, ends a sentence."""
    return text.rstrip().rstrip("\"'”’»)]」』）").endswith((".", "!", "?", "…", "。", "！", "？", "।", "؟", "።"))


def ngrams(tokens: Sequence[str], n: int) -> list[Ngram]:
    """All runs of `n` tokens, in order."""
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def contains(tokens: Sequence[str], part: Sequence[str]) -> bool:
    """Whether `part` occurs in `tokens` in one piece. The empty part occurs nowhere."""
    return bool(part) and tuple(part) in set(ngrams(tokens, len(part)))


def has_content(text: str) -> bool:
    """Whether there is a letter, a digit or a pictogram in the text: punctuation alone says nothing."""
    return any(unicodedata.category(char) == "So" or unicodedata.category(char)[0] in "LN" for char in text)
