"""Two ways to run a vision-language model forward until every row has ended.

`decode_lean` is for LLaVA-like models: images are encoded once each, however many prompts are asked about them, keys
and values are seldom copied, and rows that have ended leave the batch. `decode_any` is transformers' own
`generate`, for every other family.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn.functional import pad
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import Cache, DynamicLayer

from vila2_ray.config import SamplingConfig
from vila2_ray.engines.choosing import TokenChooser

LEAN_FAMILIES = ("vila", "llava")
"""Model types whose image features replace placeholder tokens one for one, with ordinary position numbers."""

BLOCK = 16
"""Tokens by which the buffers of keys and values grow."""

_FEW_TOKENS = 128

COMPACT_BELOW = 0.8
"""Rows that have ended are dropped once the others are fewer than this share."""


class BlockLayer(DynamicLayer):
    """Keys and values in buffers [rows, heads, slots, width] that grow by blocks: few copies, and always contiguous.

    Slots that are not yet taken hold zeros and lie in the future of every query, where the causal mask hides them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._length = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            self._length = key_states.shape[-2]
            return key_states, value_states
        end = self._length + key_states.shape[-2]
        if end > self.keys.shape[-2]:
            self.keys, self.values = _grown(self.keys, slots_for(end)), _grown(self.values, slots_for(end))
        self.keys[:, :, self._length : end] = key_states
        self.values[:, :, self._length : end] = value_states
        self._length = end
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self._length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Slots that attention sees, and the position of the first."""
        return (slots_for(self._length + query_length) if self._length else query_length), 0

    def beside(self, other: BlockLayer) -> BlockLayer:
        """A layer of these rows and, below them, those of `other`. All end together: the shorter begin with zeros."""
        length = max(self._length, other._length)
        joined = BlockLayer()
        joined.lazy_initialization(self.keys, self.values)
        joined.keys = torch.cat([_ending(self.keys, self._length, length), _ending(other.keys, other._length, length)])
        ours, theirs = _ending(self.values, self._length, length), _ending(other.values, other._length, length)
        joined.values = torch.cat([ours, theirs])
        joined._length = length
        return joined

    def forget(self, num_blocks: int) -> None:
        """Drop so many blocks at the beginning."""
        slots = num_blocks * BLOCK
        self.keys, self.values = self.keys[:, :, slots:], self.values[:, :, slots:]
        self._length -= slots


def _grown(states: torch.Tensor, slots: int) -> torch.Tensor:
    rows, heads, length, width = states.shape
    return torch.cat([states, states.new_zeros(rows, heads, slots - length, width)], dim=2)


def _ending(states: torch.Tensor, taken: int, length: int) -> torch.Tensor:
    """The taken slots of a buffer, behind as many zeros as make them `length`."""
    return pad(states[:, :, :taken], (0, 0, length - taken, 0))


def slots_for(length: int) -> int:
    """Of the buffers that hold so many tokens."""
    return -(-length // BLOCK) * BLOCK


def encode_images(model: Any, pixel_values: torch.Tensor, chunk: int) -> torch.Tensor:
    """Image tokens [images, tokens, C] of `pixel_values` [images, 3, H, W], `chunk` images at a time."""
    tower = model.model.vision_tower
    few = (getattr(tower.config, "image_size", 0) // getattr(tower.config, "patch_size", 1)) ** 2 <= _FEW_TOKENS
    with written_out(tower, model.device) if few else contextlib.nullcontext():
        parts = [model.get_image_features(pixel_values=part).pooler_output for part in pixel_values.split(chunk)]
    return torch.stack([image for part in parts for image in part])


@dataclass
class Begun:
    """R rows whose prompts have been read."""

    cache: Cache
    logits: torch.Tensor  # [R, V], of the first token
    position: torch.Tensor  # [R, 1], of the last token of the prompt


@torch.inference_mode()
def prefill(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    image_tokens: torch.Tensor,
    image_of_row: torch.Tensor,
) -> Begun:
    """Read the prompts of R rows.

    input_ids, attention_mask: [R, L], padded on the left, one placeholder per image token. image_tokens:
    [images, tokens, C]; image_of_row: [R], which of them each row shows.
    """
    embeds = model.get_input_embeddings()(input_ids)
    placeholder = (input_ids == model.config.image_token_id).unsqueeze(-1)
    embeds = embeds.masked_scatter(placeholder, image_tokens[image_of_row].to(embeds.dtype))
    padded = bool((attention_mask == 0).any())
    position = attention_mask.cumsum(1) - 1
    cache = Cache(layers=[BlockLayer() for _ in range(model.config.get_text_config().num_hidden_layers)])
    few = input_ids.shape[1] <= _FEW_TOKENS
    with written_out(model.model.language_model, model.device) if few else contextlib.nullcontext():
        output = model(
            inputs_embeds=embeds,
            attention_mask=attention_mask if padded else None,
            position_ids=position.clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
    return Begun(cache, output.logits[:, -1], position[:, -1:])


@torch.inference_mode()
def decode_lean(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    image_tokens: torch.Tensor,
    image_of_row: torch.Tensor,
    chooser: TokenChooser,
) -> None:
    """Run `chooser` to its end. The arguments are `prefill`'s."""
    num_rows, length = input_ids.shape
    padded = bool((attention_mask == 0).any())
    mask = pad(attention_mask, (0, chooser.sampling.max_tokens + BLOCK), value=1)
    rows = torch.arange(num_rows, device=input_ids.device)
    begun = prefill(model, input_ids, attention_mask, image_tokens, image_of_row)
    cache, logits, position = begun.cache, begun.logits, begun.position
    with written_out(model.model.language_model, model.device):
        while True:
            token = chooser.choose(logits, rows)
            going = chooser.going(rows)
            if not len(going):
                return
            if len(going) < COMPACT_BELOW * len(rows):
                rows, token, position, mask = rows[going], token[going], position[going], mask[going]
                cache.batch_select_indices(going)
            position, length = position + 1, length + 1
            logits = next_logits(model, token, position, mask[:, : slots_for(length)] if padded else None, cache)


def next_logits(
    model: Any, token: torch.Tensor, position: torch.Tensor, mask: torch.Tensor | None, cache: Cache
) -> torch.Tensor:
    """[R, V] behind one more token [R] at `position` [R, 1]; `mask` [R, slots], None where no slot is to be hidden."""
    output = model(
        input_ids=token[:, None],
        attention_mask=mask,
        position_ids=position,
        past_key_values=cache,
        use_cache=True,
    )
    logits: torch.Tensor = output.logits[:, -1]
    return logits


@contextlib.contextmanager
def written_out(part: Any, device: torch.device) -> Iterator[None]:
    """On a CPU, attention among few tokens, or of one, is faster written out than in the fused kernel."""
    usual = part.config._attn_implementation
    if device.type != "cpu" or usual != "sdpa":
        yield
        return
    part.set_attn_implementation("eager")
    try:
        yield
    finally:
        part.set_attn_implementation(usual)


class Chooser(Protocol):
    """What `decode_any` needs of one."""

    sampling: SamplingConfig

    def choose(self, logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Next tokens [N] of `rows` [N], given their logits [N, V]."""


class _Forced(LogitsProcessor):
    """Lets the chooser choose inside transformers' greedy search: every other token becomes impossible."""

    def __init__(self, chooser: Chooser, num_rows: int, device: torch.device) -> None:
        self._chooser, self._rows = chooser, torch.arange(num_rows, device=device)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        token = self._chooser.choose(scores, self._rows)
        return torch.full_like(scores, float("-inf")).scatter_(1, token[:, None], 0.0)


@torch.inference_mode()
def decode_any(model: Any, inputs: dict[str, torch.Tensor], end_ids: list[int], pad_id: int, chooser: Chooser) -> None:
    """Run `chooser` to its end with transformers' `generate`. `inputs`: what the processor made, padded on the left."""
    num_rows = len(inputs["input_ids"])
    model.generate(
        **inputs,
        do_sample=False,
        num_beams=1,
        max_new_tokens=chooser.sampling.max_tokens,
        eos_token_id=end_ids,
        pad_token_id=pad_id,
        logits_processor=LogitsProcessorList([_Forced(chooser, num_rows, inputs["input_ids"].device)]),
        # a folder's own habits, such as a repetition penalty, would change what SamplingConfig says
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        min_new_tokens=0,
    )
