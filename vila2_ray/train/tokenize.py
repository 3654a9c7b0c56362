"""Training items → token ids and supervision, with the checkpoint's own tokenizer and chat template.

The prompt part of an item is exactly what an engine feeds for the same prompt: template, special tokens and image
placeholders alike. Each turn is tokenized by itself, so that no token spans prompt and answer. Supervised are the
assistant's turns up to and with the token that ends them, or all text of an item without a question.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vila2_ray.captions.fuse import Item, Turn
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

    def __call__(self, items: Sequence[tuple[Item, ImageKey | None]]) -> list[Tokens]:
        """Tokenize items with their images, in order. What goes beyond max_length is cut off at the end."""
        parts: list[tuple[int, str, bool, bool]] = []  # item, text, supervised, adds special tokens
        for number, (item, image) in enumerate(items):
            parts += [(number, *segment) for segment in self._segments(item, image is not None)]
        ids: list[list[int]] = [[] for _ in parts]
        for special in (False, True):
            chosen = [i for i, part in enumerate(parts) if part[3] == special and part[1]]
            if chosen:
                found = self._tokenizer([parts[i][1] for i in chosen], add_special_tokens=special)["input_ids"]
                for i, made in zip(chosen, found, strict=True):
                    ids[i] = made
        tokens: list[list[int]] = [[] for _ in items]
        supervised: list[list[bool]] = [[] for _ in items]
        for (number, _, learned, _), made in zip(parts, ids, strict=True):
            made = self._expand(made)
            tokens[number] += made
            supervised[number] += [learned] * len(made)
        return [self._finish(t, s, image) for t, s, (_, image) in zip(tokens, supervised, items, strict=True)]

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """[3, H, W] float32 of an RGB image, as the engines' processor makes it."""
        return self._make_pixels(image)

    def _segments(self, item: Item, has_image: bool) -> list[tuple[str, bool, bool]]:
        """(text, supervised, adds special tokens) of an item, in order; together they are the rendered conversation."""
        item = tuple(Turn(turn.role, self._special.sub(" ", turn.text).strip()) for turn in item)
        if item[0].role == "assistant":
            bos, image = self._tokenizer.bos_token or "", self.image_token if has_image else ""
            return [(bos + image, False, False), (item[0].text + self._end, True, False)]
        segments: list[tuple[str, bool, bool]] = []
        said = ""
        for number, turn in enumerate(item):
            if turn.role != "assistant":
                continue
            prompt = self._prompt(item[:number], has_image)
            whole = self._render(item[: number + 1], has_image, False)
            if not prompt.startswith(said) or not whole.startswith(prompt):
                name = str(self._tokenizer.name_or_path)
                raise CheckpointError(
                    name, "has a chat template that rewrites earlier turns, so answers cannot be told from prompts"
                )
            special = not segments and not prompt.startswith(self._tokenizer.bos_token or "\0")
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

    @property
    def _end(self) -> str:
        return self._tokenizer.eos_token or ""

    def _render_prompt(self, turns: Item, has_image: bool) -> str:
        return self._render(turns, has_image, True)

    def _render(self, turns: Item, has_image: bool, prompting: bool) -> str:
        messages = []
        for number, turn in enumerate(turns):
            image = [{"type": "image"}] if has_image and number == 0 else []
            messages.append({"role": turn.role, "content": [*image, {"type": "text", "text": turn.text}]})
        return self._tokenizer.apply_chat_template(
            messages, chat_template=self._template, add_generation_prompt=prompting, tokenize=False
        )

    def _expand(self, ids: list[int]) -> list[int]:
        if self.image_token_id not in ids:
            return ids
        at = ids.index(self.image_token_id)
        return ids[:at] + self._expansion + ids[at + 1 :]

    def _finish(self, ids: list[int], supervised: list[bool], image: ImageKey | None) -> Tokens:
        excess = max(0, len(ids) - self._max_length)
        keep = len(ids) - excess
        if excess and self.image_token_id in ids[keep:]:
            excess, keep = 0, len(ids)  # the image itself does not fit: the plan drops the item as too long
        mask = np.array(supervised[:keep], bool)
        mask[:1] = False
        return Tokens(np.array(ids[:keep], np.int32), mask, image, excess)

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
