"""What an expert saw in one image: things with boxes, printed lines. Specialists learn from it and are scored by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vila2_ray.captions.boxes import Box

Conversation = list[tuple[str, str]]
"""Turns as (what a person asks, what is answered). The image stands before the first."""


@dataclass(frozen=True)
class Thing:
    """A thing with its box."""

    name: str
    """A noun or noun phrase without article, as captions say it: `red apple`."""
    box: Box
    score: float = 1.0
    """The expert's confidence, in [0, 1]."""
    depth: float | None = None
    """Distance from the camera, in any one unit within an image; smaller is nearer. None: not known."""
    span: tuple[int, int] | None = None
    """Characters [start, stop) of the annotation's caption that name it. None: it has none, or names it nowhere."""


@dataclass(frozen=True)
class Line:
    """A printed line."""

    text: str
    box: Box
    score: float = 1.0
    """The expert's confidence, in [0, 1]."""
    language: str = ""
    """ISO 639-1, where it could be told; of the script at least, as `zh`. Empty: not known."""


@dataclass(frozen=True)
class Annotation:
    """What is known of an image; None is not the same as nothing there."""

    things: tuple[Thing, ...] | None = None
    lines: tuple[Line, ...] | None = None
    """In reading order."""
    caption: str = ""
    """A sentence that an annotator wrote of the image, whose phrases are its things (see `Thing.span`)."""

    def as_json(self) -> dict[str, Any]:
        """`from_json` reads it back."""
        made: dict[str, Any] = {}
        if self.things is not None:
            made["things"] = [
                {"name": t.name, "box": list(t.box), "score": t.score, "depth": t.depth}
                | ({"span": list(t.span)} if t.span else {})
                for t in self.things
            ]
        if self.lines is not None:
            made["lines"] = [
                {"text": line.text, "box": list(line.box), "score": line.score, "language": line.language}
                for line in self.lines
            ]
        if self.caption:
            made["caption"] = self.caption
        return made

    @classmethod
    def from_json(cls, made: Mapping[str, Any]) -> Annotation:
        things, lines = made.get("things"), made.get("lines")
        return cls(
            None if things is None else tuple(_thing(thing) for thing in things),
            None if lines is None else tuple(Line(**{**line, "box": Box(*line["box"])}) for line in lines),
            made.get("caption", ""),
        )

    @classmethod
    def from_truth(cls, truth: Mapping[str, Any]) -> Annotation:
        """Of a composed scene's truth: `{"objects": [{"name", "box", …}], "words": [{"text", "box", …}]}`."""
        return cls(
            tuple(Thing(thing["name"], Box(*thing["box"])) for thing in truth["objects"]),
            tuple(Line(word["text"], Box(*word["box"])) for word in truth["words"]),
        )

    @classmethod
    def from_any_truth(cls, truth: Mapping[str, Any] | None) -> Annotation:
        """The same; of a truth of another form, or of none, nothing is known."""
        try:
            return cls() if truth is None else cls.from_truth(truth)
        except (KeyError, TypeError, ValueError):  # a corpus may keep other things by the name of truth
            return cls()


def _thing(made: Mapping[str, Any]) -> Thing:
    spans = {"span": tuple(made["span"])} if made.get("span") else {}
    return Thing(**{**made, "box": Box(*made["box"]), **spans})
