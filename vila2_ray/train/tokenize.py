"""Training items → token ids and supervision, with the checkpoint's own tokenizer and chat template.

The prompt part of an item is exactly what an engine feeds for the same prompt: template, special tokens and image
placeholders alike. Each turn is tokenized by itself, so that no token spans prompt and answer; text between images is.
Supervised are the assistant's turns up to and with the token that ends them, or all text of an item without a question;
an image never is.

Running text before the first question is no answer, so no template writes it: it stands as it would alone, ended by the
token that ends it there, and the conversation follows as the template renders it, without a second beginning.

An image stands where the item's text has an IMAGE_PLACE. Those for which it has none stand before everything else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vila2_ray.captions.fuse import IMAGE_PLACE, Item, Turn
from vila2_ray.errors import CheckpointError
from vila2_ray.train.pixels import PixelMaker
from vila2_ray.train.source import ImageKey, Tokens

if TYPE_CHECKING:
    import torch
    from transformers import ProcessorMixin


class ItemTokenizer:
    """Holds a processor whose images all take the same number of tokens.

    Raises CheckpointError for a processor without chat template, and for families whose image tokens depend on the
    image's size.
    """

    def __init__(self, processor: ProcessorMixin, max_length: int) -> None:
        self._processor: Any = processor
        self._tokenizer: Any = self._processor.tokenizer
        self._max_length = max_length
        self._template = self._processor.chat_template or self._tokenizer.chat_template
        if not self._template:
            raise CheckpointError(
                str(self._tokenizer.name_or_path), "has no chat template", "Add chat_template.jinja to the folder"
            )
        self.image_token: str = self._processor.image_token
        self.image_token_id: int = self._tokenizer.convert_tokens_to_ids(self.image_token)
        self.pad_token_id: int = (
            self._tokenizer.pad_token_id if self._tokenizer.pad_token_id is not None else self._tokenizer.eos_token_id
        )
        self._expansion, self.blank = self._probe()
        self._make_pixels = PixelMaker(self._processor.image_processor)
        special = sorted({*self._tokenizer.all_special_tokens, self.image_token}, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special)), re.IGNORECASE)
        self._prompt = lru_cache(maxsize=1024)(self._render_prompt)

    def __call__(self, items: Sequence[tuple[Item, Sequence[ImageKey]]]) -> list[Tokens]:
        """Tokenize items with their images, in order. What goes beyond max_length is cut off at the end."""
        parts: list[tuple[int, str, bool, bool]] = []  # item, text, supervised, adds special tokens
        for number, (item, images) in enumerate(items):
            parts += [(number, *segment) for segment in self._segments(_placed(item, len(images)))]
        ids: list[list[int]] = [[] for _ in parts]
        for special in (False, True):
            chosen = [i for i, part in enumerate(parts) if part[3] == special and part[1]]
            if chosen:
                found = self._tokenizer([parts[i][1] for i in chosen], add_special_tokens=special)["input_ids"]
                for i, made in zip(chosen, found, strict=True):
                    ids[i] = made
        rows = [_Row() for _ in items]
        for (number, _, learned, _), made in zip(parts, ids, strict=True):
            self._extend(rows[number], made, learned)
        return [self._finish(row, tuple(images)) for row, (_, images) in zip(rows, items, strict=True)]

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """[3, H, W] float32 of an RGB image, as the engines' processor makes it."""
        return self._make_pixels(image)

    @property
    def pixel_levels(self) -> np.ndarray | None:
        """[3, 256] float32: the numbers that pixels are made of; None where there may be others."""
        return self._make_pixels.levels

    def _segments(self, item: Item) -> list[tuple[str, bool, bool]]:
        """(text, supervised, adds special tokens) of an item, in order; together they are the rendered conversation."""
        item = tuple(Turn(turn.role, self._special.sub(" ", turn.text).strip()) for turn in item)
        if item[0].role == "user":
            return self._conversation(item)
        begun = [(self._bos, False, False), *self._running_text(item[0].text)]
        return [*begun, *self._conversation(item[1:], goes_on=True)]

    def _conversation(self, item: Item, goes_on: bool = False) -> list[tuple[str, bool, bool]]:
        """A conversation as the template renders it; one that goes on from a text has its beginning there."""
        segments: list[tuple[str, bool, bool]] = []
        said = self._bos if goes_on and item and self._prompt(item[:1]).startswith(self._bos) else ""
        for number, turn in enumerate(item):
            if turn.role != "assistant":
                continue
            prompt = self._prompt(item[:number])
            whole = self._render(item[: number + 1], False)
            if not prompt.startswith(said) or not whole.startswith(prompt):
                name = str(self._tokenizer.name_or_path)
                raise CheckpointError(
                    name, "has a chat template that rewrites earlier turns, so answers cannot be told from prompts"
                )
            special = not segments and not goes_on and not prompt.startswith(self._tokenizer.bos_token or "\0")
            answer = whole[len(prompt) :]
            if number == len(item) - 1 and self._end not in answer:
                answer += self._end
            stop = answer.rfind(self._end) + len(self._end) if self._end and self._end in answer else len(answer)
            segments += [
                (prompt[len(said) :], False, special),
                (answer[:stop], True, False),
                (answer[stop:], False, False),
            ]
            said = whole
        return segments

    def _running_text(self, text: str) -> list[tuple[str, bool, bool]]:
        """Text with images in it, all of it learned, and the token that ends it."""
        pieces = [piece.strip() for piece in text.split(IMAGE_PLACE)]
        segments = [(pieces[0], True, False)]
        for piece in pieces[1:]:
            segments += [(self.image_token, False, False), (piece, True, False)]
        last = segments.pop()
        return [*segments, (last[0] + self._end, True, False)]

    @property
    def _bos(self) -> str:
        return self._tokenizer.bos_token or ""

    @property
    def _end(self) -> str:
        return self._tokenizer.eos_token or ""

    def _render_prompt(self, turns: Item) -> str:
        return self._render(turns, True)

    def _render(self, turns: Item, prompting: bool) -> str:
        messages = [{"role": turn.role, "content": _content(turn.text)} for turn in turns]
        return self._tokenizer.apply_chat_template(
            messages, chat_template=self._template, add_generation_prompt=prompting, tokenize=False
        )

    def _extend(self, row: _Row, ids: list[int], learned: bool) -> None:
        """Append a segment, its image placeholders expanded."""
        while self.image_token_id in ids:
            at = ids.index(self.image_token_id)
            row.append(ids[:at], learned)
            row.images.append((len(row.ids), len(row.ids) + len(self._expansion)))
            row.append(self._expansion, False)
            ids = ids[at + 1 :]
        row.append(ids, learned)

    def _finish(self, row: _Row, images: tuple[ImageKey, ...]) -> Tokens:
        """Cut at max_length, before an image that does not fit. What then has nothing to learn from stays whole: the
        plan drops it as too long.
        """
        keep = min([self._max_length, *(start for start, stop in row.images if stop > self._max_length)])
        if keep >= len(row.ids) or not any(row.supervised[1:keep]):
            keep = len(row.ids)
        mask = np.array(row.supervised[:keep], bool)
        mask[:1] = False
        shown = sum(stop <= keep for _, stop in row.images)
        return Tokens(np.array(row.ids[:keep], np.int32), mask, images[:shown], len(row.ids) - keep)

    def _probe(self) -> tuple[list[int], torch.Tensor]:
        """What one image placeholder becomes, and the pixels of a grey image."""
        found, pixels = [], []
        for size in ((96, 96), (320, 200)):
            made = self._processor(
                images=[Image.new("RGB", size, (127, 127, 127))],
                text=[self.image_token],
                add_special_tokens=False,
                return_tensors="pt",
            )
            found.append(made["input_ids"][0].tolist())
            pixels.append(made["pixel_values"][0])
        if found[0] != found[1]:
            name = str(self._tokenizer.name_or_path)
            raise CheckpointError(
                name, "gives an image more or fewer tokens by its size", "Train a family with a fixed number"
            )
        return found[0], pixels[0].clone()


@dataclass
class _Row:
    """An item as it is being put together."""

    ids: list[int] = field(default_factory=list)
    supervised: list[bool] = field(default_factory=list)
    images: list[tuple[int, int]] = field(default_factory=list)
    """First token and the one after the last of each image."""

    def append(self, ids: list[int], learned: bool) -> None:
        self.ids += ids
        self.supervised += [learned] * len(ids)


def _placed(item: Item, num_images: int) -> Item:
    """The item with a place for each of its images. There are never more places than images (see items.py)."""
    missing = num_images - sum(turn.text.count(IMAGE_PLACE) for turn in item)
    assert missing >= 0, "an item with more image places than images"
    return (Turn(item[0].role, IMAGE_PLACE * missing + item[0].text), *item[1:]) if missing else item


def _content(text: str) -> list[dict[str, str]]:
    """A turn as chat templates take it: texts and images in order."""
    content: list[dict[str, str]] = []
    for number, piece in enumerate(text.split(IMAGE_PLACE)):
        content += [{"type": "image"}] if number else []
        content += [{"type": "text", "text": piece.strip()}] if piece.strip() else []
    return content or [{"type": "text", "text": ""}]
