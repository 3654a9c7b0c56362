"""Two ways to run a vision-language model forward until every row has ended.

`decode_lean` is for LLaVA-like models: images are encoded once each, however many prompts are asked about them, keys
and values lie in buffers that never move, and rows that have ended leave the batch. `decode_any` is transformers' own
`generate`, for every other family.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import Cache, DynamicLayer

from vila2_ray.engines.choosing import TokenChooser

LEAN_FAMILIES = ("vila", "llava")
"""Model types whose image features replace placeholder tokens one for one, with ordinary position numbers."""

_COMPACT_BELOW = 0.8
"""Rows that have ended are dropped once the others are fewer than this share."""


class PreallocatedLayer(DynamicLayer):
    """Keys and values in buffers of their final size [rows, heads, capacity, width]: appending copies nothing old."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self._capacity, self._length = capacity, 0
        self._key_buffer = self._value_buffer = torch.empty(0)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            rows, heads, _, width = key_states.shape
            self._key_buffer = key_states.new_empty(rows, heads, self._capacity, width)
            self._value_buffer = value_states.new_empty(rows, heads, self._capacity, value_states.shape[-1])
        end = self._length + key_states.shape[-2]
        self._key_buffer[:, :, self._length : end] = key_states
        self._value_buffer[:, :, self._length : end] = value_states
        self._length = end
        self._narrow()
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self._key_buffer, self._value_buffer = self._key_buffer[indices], self._value_buffer[indices]
        self._narrow()

    def _narrow(self) -> None:
        self.keys = self._key_buffer[:, :, : self._length]
        self.values = self._value_buffer[:, :, : self._length]


def encode_images(model: Any, pixel_values: torch.Tensor, chunk: int) -> torch.Tensor:
    """Image tokens [images, tokens, C] of `pixel_values` [images, 3, H, W], `chunk` images at a time."""
    parts = [model.get_image_features(pixel_values=part).pooler_output for part in pixel_values.split(chunk)]
    return torch.stack([image for part in parts for image in part])


@torch.inference_mode()
def decode_lean(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    image_tokens: torch.Tensor,
    image_of_row: torch.Tensor,
    chooser: TokenChooser,
) -> None:
    """Run `chooser` to its end.

    input_ids, attention_mask: [R, L], padded on the left, one placeholder per image token. image_tokens:
    [images, tokens, C]; image_of_row: [R], which of them each row shows.
    """
    num_rows, length = input_ids.shape
    text_config = model.config.get_text_config()
    embeds = model.get_input_embeddings()(input_ids)
    placeholder = (input_ids == model.config.image_token_id).unsqueeze(-1)
    embeds = embeds.masked_scatter(placeholder, image_tokens[image_of_row].to(embeds.dtype))
    padded = bool((attention_mask == 0).any())
    mask = torch.cat([attention_mask, attention_mask.new_ones(num_rows, chooser.sampling.max_tokens)], dim=1)
    position = attention_mask.cumsum(1) - 1
    cache = Cache(layers=[PreallocatedLayer(mask.shape[1]) for _ in range(text_config.num_hidden_layers)])
    rows = torch.arange(num_rows, device=input_ids.device)
    attention = _Attention(model)
    try:
        output = model(
            inputs_embeds=embeds,
            attention_mask=attention_mask if padded else None,
            position_ids=position.clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        position = position[:, -1:]
        attention.for_single_tokens()
        while True:
            token = chooser.choose(output.logits[:, -1], rows)
            going = chooser.going(rows)
            if not len(going):
                return
            if len(going) < _COMPACT_BELOW * len(rows):
                rows, token, position, mask = rows[going], token[going], position[going], mask[going]
                cache.batch_select_indices(going)
            position, length = position + 1, length + 1
            output = model(
                input_ids=token[:, None],
                attention_mask=mask[:, :length] if padded else None,
                position_ids=position,
                past_key_values=cache,
                use_cache=True,
            )
    finally:
        attention.restore()


class _Attention:
    """On a CPU, attention of one query is faster written out than in the fused kernel; of many it is not."""

    def __init__(self, model: Any) -> None:
        self._language = model.model.language_model
        self._usual = self._language.config._attn_implementation
        self._switch = model.device.type == "cpu" and self._usual == "sdpa"

    def for_single_tokens(self) -> None:
        if self._switch:
            self._language.set_attn_implementation("eager")

    def restore(self) -> None:
        if self._switch:
            self._language.set_attn_implementation(self._usual)


class _Forced(LogitsProcessor):
    """Lets the chooser choose inside transformers' greedy search: every other token becomes impossible."""

    def __init__(self, chooser: TokenChooser, num_rows: int, device: torch.device) -> None:
        self._chooser, self._rows = chooser, torch.arange(num_rows, device=device)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        token = self._chooser.choose(scores, self._rows)
        return torch.full_like(scores, float("-inf")).scatter_(1, token[:, None], 0.0)


@torch.inference_mode()
def decode_any(
    model: Any, inputs: dict[str, torch.Tensor], end_ids: list[int], pad_id: int, chooser: TokenChooser
) -> None:
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
        min_length=0,
        min_new_tokens=0,
    )
