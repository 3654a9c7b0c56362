"""Samples of any number of images as training items: conversations, interleaved documents, text alone.

Images are numbered by their place in the sample's own list of images. One that is known to be missing as the sample is
read is left out of a document; a conversation that speaks of it is left out as a whole.

    conversation  `conversations` or `messages`: LLaVA's from/value or role/content; `<image>` marks where images stand
    document      `texts` (and `images`): one list, in which a text or an image stands at each place (OBELICS), or an
                  image before the text of the same place; `text_list` and `image_info`: an image stands before the text
                  that it matches (MMC4)
    text          `text`, or the alt text
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from vila2_ray.captions.fuse import IMAGE_PLACE, Item, Turn
from vila2_ray.captions.words import has_content
from vila2_ray.corpus.samples import Sample
from vila2_ray.errors import Reason

IMAGE_MARK = "<image>"
"""Where LLaVA's conversations say that an image stands."""
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
_NO_PICTURE = (Reason.NO_IMAGE, Reason.DOCUMENT)
"""What may be said of a sample that is fine but for having no single picture."""


@dataclass(frozen=True)
class SampleItems:
    """The items of one sample."""

    row: int
    items: list[Item]
    images: tuple[int, ...] = ()
    """Numbers of the images that each of the items shows, in order of appearance."""


def conversation_items(sample: Sample) -> SampleItems:
    """A conversation as one item of several turns. No items when there is no usable exchange in it.

    A single image stands before everything, as LLaVA trains; of several, each stands where it is marked. A conversation
    that marks no image is one of text alone if it has none; one that marks more or fewer than it has is left out.
    """
    turns = [turn for entry in _entries(sample.extra) if (turn := _turn(entry)) is not None]
    while turns and turns[0].role == "assistant":
        turns.pop(0)  # an answer to nothing
    while turns and turns[-1].role == "user":
        turns.pop()
    alternates = all(a.role != b.role for a, b in itertools.pairwise(turns))
    num_marks = sum(turn.text.count(IMAGE_MARK) for turn in turns)
    images = _images(sample)
    if not turns or not alternates or not _is_usable(sample):
        return SampleItems(sample.row, [])
    if num_marks and num_marks != len(images) and len(images) != 1:
        return SampleItems(sample.row, [])
    place = IMAGE_PLACE if num_marks == len(images) > 1 else ""
    clean = tuple(Turn(turn.role, turn.text.replace(IMAGE_MARK, place).strip()) for turn in turns)
    return SampleItems(sample.row, [clean], images)


def exchanges(made: SampleItems) -> SampleItems:
    """A conversation taken apart: every question with its answer an item of its own, in their order.

    One about several images stays whole, for they stand in the order of its turns.
    """
    if len(made.images) > 1:
        return made
    pairs = [item[at : at + 2] for item in made.items for at in range(0, len(item), 2)]
    return SampleItems(made.row, pairs, made.images)


def document_items(sample: Sample) -> SampleItems:
    """A document as one item of running text with images in it; no items where it holds no text.

    Images after the last text are left out: nothing is learned from them.
    """
    pieces = _mmc4(sample) if isinstance(sample.extra.get("text_list"), list) else _obelics(sample)
    while pieces and isinstance(pieces[-1], int):
        pieces.pop()
    if not pieces or not _is_usable(sample):
        return SampleItems(sample.row, [])
    images = tuple(piece for piece in pieces if isinstance(piece, int))
    between = " " if "text_list" in sample.extra else "\n\n"
    text = ""
    for piece in pieces:
        if isinstance(piece, int):
            text += IMAGE_PLACE
        else:
            text += (between if text and not text.endswith(IMAGE_PLACE) else "") + piece
    return SampleItems(sample.row, [(Turn("assistant", text),)], images)


def text_items(sample: Sample) -> SampleItems:
    """Text alone as one item; no items where there is none."""
    told = sample.extra.get("text")
    text = _clean(told if isinstance(told, str) else sample.alt_text)
    is_text = has_content(text) and _is_usable(sample)
    return SampleItems(sample.row, [(Turn("assistant", text),)] if is_text else [])


def _images(sample: Sample) -> tuple[int, ...]:
    """Numbers of the images that the sample has, as far as that is known before they are read."""
    if sample.pictures:
        return tuple(sorted(sample.pictures))
    return (0,) if sample.problem is None else ()


def _is_usable(sample: Sample) -> bool:
    return sample.problem is None or sample.problem.reason in _NO_PICTURE


def _clean(text: str) -> str:
    return text.replace(IMAGE_PLACE, " ").strip()


def _mmc4(sample: Sample) -> list[str | int]:
    """Texts and numbers of images in order, by the text that each image matches."""
    before: defaultdict[int, list[int]] = defaultdict(list)
    infos = sample.extra.get("image_info")
    available = set(_images(sample))
    for number, info in enumerate(infos if isinstance(infos, list) else []):
        place = info.get("matched_text_index") if isinstance(info, dict) else None
        if isinstance(place, int) and number in available:
            before[place].append(number)
    pieces: list[str | int] = []
    for place, text in enumerate(sample.extra["text_list"]):
        pieces += before[place]
        pieces += [_clean(text)] if isinstance(text, str) and has_content(text) else []
    return pieces


def _obelics(sample: Sample) -> list[str | int]:
    """Texts and numbers of images in order, by their place in the lists."""
    texts, images = sample.extra.get("texts"), sample.extra.get("images")
    if not isinstance(texts, list):
        return []
    available = _images(sample)
    if isinstance(images, list):
        places = [place for place, image in enumerate(images) if image is not None]
    else:  # of images that are not told of beside the texts, the gaps between the texts tell
        places = [place for place, text in enumerate(texts) if text is None]
        places = places if len(places) == len(available) else list(range(len(texts)))
    if available == tuple(range(len(places))):  # all there, and numbered without the gaps
        number_at = dict(zip(places, available, strict=True))
    else:
        number_at = {place: place for place in places if place in available}
    pieces: list[str | int] = []
    for place in range(max([len(texts), *(at + 1 for at in number_at)])):
        pieces += [number_at[place]] if place in number_at else []
        text = texts[place] if place < len(texts) else None
        pieces += [_clean(text)] if isinstance(text, str) and has_content(text) else []
    return pieces


def _entries(fields: dict[str, Any]) -> list[Any]:
    found = fields.get("conversations", fields.get("messages"))
    return found if isinstance(found, list) else []


def _turn(entry: Any) -> Turn | None:
    if not isinstance(entry, dict):
        return None
    role, text = _ROLES.get(str(entry.get("from", entry.get("role")))), entry.get("value", entry.get("content"))
    if role is None or not isinstance(text, str) or not text.strip():
        return None
    return Turn("user" if role == "user" else "assistant", text.replace(IMAGE_PLACE, " "))
