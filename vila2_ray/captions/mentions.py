"""Things, places and printed words as captions name them: read from free text by the names that may occur."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

SIZES = ("small", "large")
PLACES = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
"""In reading order: place i lies in row i // 3 and column i % 3."""

_SYNONYMS = {
    "upper": "top",
    "lower": "bottom",
    "middle": "center",
    "centre": "center",
    "big": "large",
    "little": "small",
}
_NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5, "2": 2, "3": 3, "4": 4, "5": 5}
_READING = re.compile(r"\b(?:reading|reads|says|saying|the words?|the text)\b[\s:\"'“‘]*([a-z0-9]+)")


@dataclass(frozen=True)
class Mention:
    """One thing that a caption names."""

    name: str
    size: str | None
    place: str | None
    start: int
    stop: int
    """The name's characters in the caption."""


@dataclass(frozen=True)
class Named:
    """A place in a text where one of the names stands."""

    name: str
    """As it was given, whatever its case and number in the text."""
    start: int
    stop: int


def find_names(text: str, names: Iterable[str]) -> list[Named]:
    """Where any of `names` stands as a word of its own, also in plural, the longest fitting name first; in order."""
    known = {plain(name): name for name in names if name.strip()}
    if not known:
        return []
    found = _alternatives(tuple(sorted(known))).finditer(plain(text))
    return [Named(known[match.group("name")], match.start(), match.end()) for match in found]


def find_things(caption: str, names: Iterable[str]) -> list[Mention]:
    """The things that a caption names, in order, with the size and place said of each.

    A size is looked for in the three words before the name. A place (`at the top left`, `in the upper-left corner`) is
    the first one after the name and before the next thing or the end of the sentence, else one before it that is
    nobody else's. `two cats` counts twice; `no cat` does not count; `the cat`, once a cat was named, is the same cat.
    """
    text = plain(caption)
    spoken = [match.span(1) for match in _READING.finditer(text)]
    found = [
        named for named in find_names(caption, names) if not any(start <= named.start < stop for start, stop in spoken)
    ]
    mentions: list[Mention] = []
    taken = 0  # everything before is said of an earlier thing
    for index, named in enumerate(found):
        before = text[taken : named.start]
        lead = re.split(r"[.;!?]", before)[-1]
        words = [_SYNONYMS.get(word, word) for word in re.findall(r"[a-z0-9]+", lead)[-3:]]
        until = found[index + 1].start if index + 1 < len(found) else len(text)
        after = re.split(r"[.;!?]", text[named.stop : until])[0]
        place, used = _place(after)
        taken = named.stop + used
        if place is None:
            place, _ = _place(lead)
        if words[-1:] == ["no"] or words[-2:] == ["not", "a"]:
            continue
        size = next((word for word in reversed(words) if word in SIZES), None)
        name = named.name
        same = next((i for i, mention in enumerate(mentions) if mention.name == name), None)
        if same is not None and {"the", "this", "that"} & set(words):
            old = mentions[same]
            mentions[same] = Mention(name, old.size or size, old.place or place, old.start, old.stop)
            continue
        times = next((_NUMBERS[word] for word in words if word in _NUMBERS), 1)
        mentions += [Mention(name, size, place, named.start, named.stop)] * times
    return mentions


def find_words(caption: str) -> list[str]:
    """The printed words that a caption reads out (`a sign reading stop`), lower-case."""
    return _READING.findall(plain(caption))


def plain(text: str) -> str:
    """Lower-case, with hyphens as spaces; every character keeps its place."""
    lower = text.lower()
    if len(lower) != len(text):  # İ has two characters in lower case
        lower = "".join(char.lower()[0] for char in text)
    return lower.replace("-", " ")


@lru_cache(maxsize=1024)
def _alternatives(names: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(names, key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?P<name>{'|'.join(map(re.escape, longest_first))})(?:e?s)?(?!\w)")


def _spellings(place: str) -> str:
    spellings = ([word, *(other for other, same in _SYNONYMS.items() if same == word)] for word in place.split())
    return " ".join(f"(?:{'|'.join(words)})" for words in spellings)


_PLACE = re.compile(rf"\b({'|'.join(map(_spellings, sorted(PLACES, key=len, reverse=True)))})\b(?! of\b)")


def _place(text: str) -> tuple[str | None, int]:
    """The first place in a stretch of text, and how many characters it takes up to its end."""
    match = _PLACE.search(text)
    if match is None:
        return None, 0
    return " ".join(_SYNONYMS.get(word, word) for word in match.group(1).split()), match.end()
