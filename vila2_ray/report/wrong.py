"""Where truth is known: what is in a picture, and which words of a text name something that is not."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from vila2_ray.evaluate.truth import mark_things
from vila2_ray.recipes.tiny.world import NAMES
from vila2_ray.report.data import Span


def things_there(truth: Mapping[str, Any] | None) -> tuple[str, ...] | None:
    """`large red apple (top left)` … in the truth's order; None when nothing is known in the form that we know."""
    if not _is_known(truth):
        return None
    assert truth is not None
    things = [" ".join(str(thing[part]) for part in ("size", "name") if thing.get(part)) for thing in truth["objects"]]
    things = [_placed(said, thing) for said, thing in zip(things, truth["objects"], strict=True)]
    words = [word for word in truth.get("words") or () if isinstance(word, Mapping) and "text" in word]
    return (*things, *(_placed(f"“{word['text']}”", word) for word in words))


def known_names(truths: Iterable[Mapping[str, Any] | None]) -> frozenset[str]:
    """Every name that a text can be wrong with: the tiny world's things and whatever else is in these pictures."""
    there = (str(thing["name"]) for truth in truths if _is_known(truth) and truth for thing in truth["objects"])
    return frozenset({*NAMES, *there})


def wrong_spans(text: str, truth: Mapping[str, Any] | None, names: Iterable[str] = NAMES) -> tuple[Span, ...]:
    """The words of `text` that name things which are not there, or more of them than there are."""
    if not text or not _is_known(truth):
        return ()
    assert truth is not None
    there = {str(thing["name"]) for thing in truth["objects"]}
    spans = []
    for mention, is_there in mark_things(text, truth, names):
        where = None if is_there else _nearest(text, mention.name, mention.start)
        if where is not None:
            spans.append(Span(*where, "repeated" if mention.name in there else "absent"))
    return tuple(dict.fromkeys(spans))  # `two cats` is one place in the text


def _is_known(truth: Mapping[str, Any] | None) -> bool:
    objects = truth.get("objects") if isinstance(truth, Mapping) else None
    return isinstance(objects, list) and all(isinstance(thing, Mapping) and "name" in thing for thing in objects)


def _placed(said: str, thing: Mapping[str, Any]) -> str:
    return f"{said} ({thing['place']})" if thing.get("place") else said


def _nearest(text: str, name: str, position: int) -> tuple[int, int] | None:
    """The occurrence of `name` closest to `position`, which scoring counted after putting synonyms right."""
    pattern = r"\b" + re.escape(name).replace(r"\ ", r"[\s\-]") + r"(?:e?s)?\b"
    found = [match.span() for match in re.finditer(pattern, text, re.IGNORECASE)]
    return min(found, key=lambda span: abs(span[0] - position), default=None)
