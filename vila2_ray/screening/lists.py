"""Lists that people bring: hashes of held-out pictures, and what must be taken down. One entry a line, `#` comments."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vila2_ray.errors import CorpusError

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PHASH = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class HashList:
    """Hashes of pictures that must never enter training; hexadecimal, lower case."""

    sha256: frozenset[str] = frozenset()
    phash: frozenset[str] = frozenset()


@dataclass(frozen=True)
class TakedownList:
    """Samples that must not be used, by any of three names."""

    sample_ids: frozenset[str] = frozenset()
    """`<shard>/<key>`."""
    sha256: frozenset[str] = frozenset()
    """Of the encoded picture, hexadecimal."""
    urls: frozenset[str] = frozenset()
    """As the sample's `url` field has it."""

    def __or__(self, other: TakedownList) -> TakedownList:
        return TakedownList(self.sample_ids | other.sample_ids, self.sha256 | other.sha256, self.urls | other.urls)

    def __bool__(self) -> bool:
        return bool(self.sample_ids or self.sha256 or self.urls)

    def lines(self) -> list[str]:
        """Every entry once, in order: `parse_takedown` reads them back."""
        return sorted(self.sample_ids | self.sha256 | self.urls)


def parse_hashes(text: str, name: str) -> HashList:
    """SHA-256 (64 hexadecimal digits) and perceptual hashes (16), as `vila2 hash` and `sha256sum` write them.

    What follows the first word of a line is not read. Raises CorpusError naming `name` and the line.
    """
    sha256, phash = set(), set()
    for number, line in _entries(text):
        word = line.split()[0].lower()
        if _SHA256.fullmatch(word):
            sha256.add(word)
        elif _PHASH.fullmatch(word):
            phash.add(word)
        else:
            problem = f"line {number} holds neither a SHA-256 (64 hexadecimal digits) nor a perceptual hash (16)"
            raise CorpusError(name, f"{problem}: {word[:80]!r}", "Make such a list with vila2 hash CORPUS --to FILE")
    return HashList(frozenset(sha256), frozenset(phash))


def parse_takedown(text: str, name: str) -> TakedownList:
    """SHA-256 digests, URLs (`scheme://…`) and sample ids (`<shard>/<key>`), mixed.

    Raises CorpusError naming `name` and the line.
    """
    found: dict[str, set[str]] = {"sample_ids": set(), "sha256": set(), "urls": set()}
    for number, line in _entries(text):
        if _SHA256.fullmatch(line.lower()):
            found["sha256"].add(line.lower())
        elif "://" in line:
            found["urls"].add(line)
        elif "/" in line.strip("/"):
            found["sample_ids"].add(line)
        else:
            problem = f"line {number} is no sample id (<shard>/<key>), SHA-256 of a picture or URL: {line[:80]!r}"
            raise CorpusError(name, problem, "One of them a line; # begins a comment")
    return TakedownList(**{kind: frozenset(entries) for kind, entries in found.items()})


def union_of_takedowns(lists: Iterable[TakedownList]) -> TakedownList:
    """All entries of all lists."""
    merged = TakedownList()
    for one in lists:
        merged = merged | one
    return merged


def _entries(text: str) -> Iterator[tuple[int, str]]:
    """(line from 1, content) of lines that hold something."""
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        if (entry := line.strip()) and not entry.startswith("#"):
            yield number, entry
