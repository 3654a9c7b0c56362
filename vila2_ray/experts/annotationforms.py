"""Forms of annotation rows that are read: told from their fields, turned into one.

    GRIT            {"key" | "id" | "url", "caption", "noun_chunks": [[start, stop, x0, y0, x1, y1, score], …],
                     "ref_exps": […]}      shares of the image; characters of the caption (arXiv 2306.14824)
    Visual Genome   {"image_id", "objects": [{"names": […] | "name", "x", "y", "w", "h"}, …], "width"?, "height"?}
                     pixels; sizes may stand in rows of their own, {"image_id", "width", "height"} (arXiv 1602.07332)
    vila2           {"sample_id" | "key", "things": […], "lines": […], "caption"}      `Annotation.as_json`

One bad thing of a row is left out and counted; a row that cannot be read at all is a BadRow.
"""

from __future__ import annotations

import json
import math
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vila2_ray.captions.boxes import Box, thousandths
from vila2_ray.corpus.shards import IMAGE_ENDINGS
from vila2_ray.skills.things import Annotation, Line, Thing

NAMING = ("sample_id", "url", "key", "id", "image_id", "image", "file_name", "image_path")
"""Fields that say which image a row is about."""
_LISTS = ("noun_chunks", "ref_exps", "objects", "things", "lines")
FIELDS = (*NAMING, "caption", "width", "height", *_LISTS)
REMEDY = (
    "Give rows of GRIT (caption, noun_chunks), of Visual Genome (image_id, objects) or "
    '{"key": …, "things": [{"name": …, "box": [xmin, ymin, xmax, ymax]}]} with boxes in thousandths'
)
_ARTICLE = re.compile(r"(?:an?|the|some|this|that|these|those|his|her|its|their|my|our|your)\s+", re.IGNORECASE)


class BadRow(ValueError):
    """A row that says nothing of an image in any form that is known."""


@dataclass
class Row:
    """What a row says, in one form."""

    names: list[str]
    """Under which an image finds it, see `names_of`."""
    annotation: Annotation | None = None
    """None where the row only tells a size."""
    pixels: list[tuple[float, float, float, float]] | None = None
    """Corners of the annotation's things, in pixels of an image whose size is still to be found."""
    size: tuple[float, float] | None = None
    """Width and height in pixels."""
    bad_things: list[str] = field(default_factory=list)
    """What was wrong with each thing that was left out."""


def read_row(fields: Mapping[str, Any]) -> Row:
    """A row of any of the forms. Raises BadRow."""
    if not isinstance(fields, Mapping):
        raise BadRow("is not a JSON object")
    fields = {name: _unpacked(value) if name in _LISTS else value for name, value in fields.items()}
    names = names_of(fields)
    if not names:
        raise BadRow(f"names no image (none of {', '.join(NAMING)})")
    if isinstance(fields.get("things"), list) or isinstance(fields.get("lines"), list):
        return _own(names, fields)
    if isinstance(fields.get("noun_chunks"), list) or isinstance(fields.get("ref_exps"), list):
        return _grit(names, fields)
    size = _size(fields)
    if isinstance(fields.get("objects"), list):
        return _visual_genome(names, fields, size)
    if size is not None:
        return Row(names, size=size)
    raise BadRow("has none of the fields things, lines, noun_chunks, ref_exps, objects")


def names_of(fields: Mapping[str, Any]) -> list[str]:
    """Names of the image that a row is about, the surest first; the kind of each before a colon."""
    names = []
    for name in NAMING:
        value = fields.get(name)
        if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
            continue
        said = str(value).strip()
        if name in ("sample_id", "url"):
            names.append(f"{name}:{said}")
        else:
            path = without_ending(said)
            names += [f"key:{path}", *([f"stem:{posixpath.basename(path)}"] if "/" in path else [])]
    return list(dict.fromkeys(names))


def without_ending(name: str) -> str:
    """`images/cat` of `images/cat.jpg`; other endings than those of images belong to the name."""
    path, ending = posixpath.splitext(name)
    return path if ending[1:].lower() in IMAGE_ENDINGS else name


def _unpacked(value: Any) -> Any:
    """Tables without nested columns hold lists as JSON."""
    if isinstance(value, str) and value.startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value


def _own(names: list[str], fields: Mapping[str, Any]) -> Row:
    bad: list[str] = []
    things, lines = fields.get("things"), fields.get("lines")
    annotation = Annotation(
        None if things is None else tuple(_each(_own_thing, things, bad)),
        None if lines is None else tuple(_each(_own_line, lines, bad)),
        str(fields.get("caption") or ""),
    )
    return Row(names, annotation, bad_things=bad)


def _own_thing(made: Mapping[str, Any]) -> Thing:
    depth, span = made.get("depth"), made.get("span")
    return Thing(
        _name(made["name"]),
        _box(made["box"]),
        _number(made.get("score", 1.0)),
        None if depth is None else _number(depth),
        None if span is None else (int(span[0]), int(span[1])),
    )


def _own_line(made: Mapping[str, Any]) -> Line:
    text, score = str(made["text"]), _number(made.get("score", 1.0))
    return Line(text, _box(made["box"]), score, str(made.get("language") or ""))


def _grit(names: list[str], fields: Mapping[str, Any]) -> Row:
    """Noun chunks, since boxes are to stand after nouns; referring expressions where there are none."""
    caption = fields.get("caption")
    if not isinstance(caption, str):
        raise BadRow("has phrases but no caption that they are phrases of")
    bad: list[str] = []
    things: list[Thing] = []
    for name in ("noun_chunks", "ref_exps"):
        if not things and isinstance(fields.get(name), list):
            things = list(_each(lambda phrase: _phrase(caption, phrase), fields[name], bad))
    return Row(names, Annotation(tuple(things), caption=caption), bad_things=bad)


def _phrase(caption: str, phrase: Any) -> Thing:
    start, stop = int(phrase[0]), int(phrase[1])
    if not 0 <= start < stop <= len(caption):
        raise ValueError(f"characters {start}–{stop} of a caption of {len(caption)}")
    corners = [_number(value) for value in phrase[2:6]]
    score = _number(phrase[6]) if len(phrase) > 6 else 1.0
    box = _valid(thousandths((corners[0], corners[1], corners[2], corners[3]), 1, 1))
    return Thing(_name(caption[start:stop]), box, score, None, (start, stop))


def _visual_genome(names: list[str], fields: Mapping[str, Any], size: tuple[float, float] | None) -> Row:
    bad: list[str] = []
    found = list(_each(_genome_object, fields["objects"], bad))
    unknown = Box(0, 0, 0, 0)  # until the image's size is known
    things = tuple(Thing(name, unknown, score) for name, score, _ in found)
    return Row(names, Annotation(things), [corners for _, _, corners in found], size, bad)


def _genome_object(made: Mapping[str, Any]) -> tuple[str, float, tuple[float, float, float, float]]:
    names = made.get("names") or [made.get("name")]
    x, y, width, height = (_number(made[side]) for side in ("x", "y", "w", "h"))
    if width <= 0 or height <= 0:
        raise ValueError(f"a box of {width:g} × {height:g} pixels")
    return _name(names[0]), _number(made.get("score", 1.0)), (x, y, x + width, y + height)


def _size(fields: Mapping[str, Any]) -> tuple[float, float] | None:
    try:
        width, height = _number(fields.get("width")), _number(fields.get("height"))
    except ValueError:
        return None
    return (width, height) if width > 0 and height > 0 else None


def _each(read: Callable[[Any], Any], made: Iterable[Any], bad: list[str]) -> Iterable[Any]:
    """What of `made` can be read; what is wrong with the rest goes to `bad`."""
    for one in made:
        try:
            yield read(one)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
            told = f"has no {error}" if isinstance(error, KeyError) else str(error)
            bad.append(told)


def _box(corners: Any) -> Box:
    xmin, ymin, xmax, ymax = (int(_number(corner)) for corner in corners)
    return _valid(Box(xmin, ymin, xmax, ymax))


def _valid(box: Box) -> Box:
    if not box.is_valid:
        raise ValueError(f"[{box.xmin},{box.ymin},{box.xmax},{box.ymax}] is no box")
    return box


def _name(said: Any) -> str:
    name = " ".join(_ARTICLE.sub("", str(said).strip(), count=1).split()) if isinstance(said, str) else ""
    if not name:
        raise ValueError("a thing without a name")
    return name.lower()


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a number")
    return float(value)
