"""Two decoders of rows that come and go: step by step for LLaVA-like families, batch by batch for all others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch.nn.functional import pad
from transformers.cache_utils import Cache

from vila2_ray.config import SamplingConfig
from vila2_ray.engines.decoding import BLOCK, COMPACT_BELOW, decode_any, next_logits, prefill, slots_for, written_out
from vila2_ray.engines.lean import written_ids
from vila2_ray.engines.rows import Row, choose
from vila2_ray.engines.transformers import TransformersEngine
from vila2_ray.engines.turns import adds_special_tokens
from vila2_ray.errors import Reason, SampleError


class Decoder(Protocol):
    """What works on rows. Belongs to one thread."""

    rows: list[Row]
    """Those in work, some of them over perhaps."""

    @property
    def takes_more(self) -> bool:
        """Whether rows may begin now."""

    def begin(self, rows: Sequence[Row]) -> None:
        """Read the prompts of new rows. Raises SampleError, or anything, for one that is bad; then none has begun."""

    def step(self, told: Callable[[], None]) -> None:
        """Work on, if there are rows; calls `told` whenever they have got tokens. Rows that are over may leave."""


class Continuous:
    """Rows join and leave between any two tokens.

    All rows end in the same slot of the buffers of keys and values: who is younger begins with hidden slots, as a
    shorter prompt does in an ordinary batch.
    """

    def __init__(self, engine: TransformersEngine) -> None:
        self.rows: list[Row] = []
        self._engine, self._model = engine, engine.model
        self._end_ids = engine.end_ids()
        self._cache = Cache(layers=[])
        self._tokens = self._position = self._mask = torch.empty(0)
        self._is_padded = False
        self._steps_attention = contextlib.ExitStack()
        """What attention is written out in, from the first step until prompts are read: switching takes its time."""
        self._is_written_out = False

    @property
    def takes_more(self) -> bool:
        return True

    @torch.inference_mode()
    def begin(self, rows: Sequence[Row]) -> None:
        self._leave()
        device, processor = self._model.device, self._engine.processor
        images = {row.image_key: row.pixels for row in rows if row.pixels is not None}
        place = {key: number for number, key in enumerate(images)}
        image_tokens = self._engine.encode(torch.cat(list(images.values())))
        special = adds_special_tokens(processor, rows[0].written)
        ids, mask = written_ids(processor, [row.written for row in rows], special, image_tokens.shape[1])
        for row, length in zip(rows, mask.sum(1).tolist(), strict=True):
            _fit(row, length, _context(self._model))
        image_of_row = torch.tensor([place[row.image_key] for row in rows], device=device)
        self._steps_attention.close()
        self._is_written_out = False
        begun = prefill(self._model, ids.to(device), mask.to(device), image_tokens, image_of_row)
        cache, mask = begun.cache, mask.to(device)
        if self.rows:
            layers = zip(self._cache.layers, cache.layers, strict=True)
            cache = Cache(layers=[running.beside(new) for running, new in layers])
            length = max(self._mask.shape[1], mask.shape[1])
            mask = torch.cat([pad(part, (length - part.shape[1], 0)) for part in (self._mask, mask)])
        tokens = choose(rows, begun.logits, self._end_ids)
        for row in rows:
            row.pixels = None
        if self.rows:
            tokens = torch.cat([self._tokens, tokens])
            begun.position = torch.cat([self._position, begun.position])
        self.rows = [*self.rows, *rows]
        self._cache, self._tokens, self._position, self._mask = cache, tokens, begun.position, mask
        self._is_padded = bool((mask == 0).any())

    @torch.inference_mode()
    def step(self, told: Callable[[], None]) -> None:
        going = sum(not row.is_over for row in self.rows)
        if going < COMPACT_BELOW * len(self.rows):
            self._leave()
        if not self.rows:
            return
        length = self._mask.shape[1] + 1
        self._mask = pad(self._mask, (0, 1), value=1)
        self._position = self._position + 1
        mask = pad(self._mask, (0, slots_for(length) - length), value=1) if self._is_padded else None
        if not self._is_written_out:
            self._steps_attention.enter_context(written_out(self._model.model.language_model, self._model.device))
            self._is_written_out = True
        logits = next_logits(self._model, self._tokens, self._position, mask, self._cache)
        self._tokens = choose(self.rows, logits, self._end_ids)
        told()

    def _leave(self) -> None:
        """Rows that are over make room, and so do slots in which no row that is left has anything."""
        going = [number for number, row in enumerate(self.rows) if not row.is_over]
        if len(going) == len(self.rows):
            return
        self.rows = [self.rows[number] for number in going]
        if not going:
            self._cache = Cache(layers=[])
            return
        kept = torch.tensor(going, device=self._mask.device)
        self._cache.batch_select_indices(kept)
        self._tokens, self._position, self._mask = self._tokens[kept], self._position[kept], self._mask[kept]
        num_blocks = int(self._mask.argmax(1).min()) // BLOCK
        if num_blocks:
            for layer in self._cache.layers:
                layer.forget(num_blocks)
            self._mask = self._mask[:, num_blocks * BLOCK :]
        self._is_padded = bool((self._mask == 0).any())


class Whole:
    """A batch is answered whole with transformers' `generate`, and then the next one; pieces come as tokens do."""

    def __init__(self, engine: TransformersEngine) -> None:
        self.rows: list[Row] = []
        self._engine, self._model = engine, engine.model
        self._inputs: dict[str, Any] = {}

    @property
    def takes_more(self) -> bool:
        return not self.rows

    def begin(self, rows: Sequence[Row]) -> None:
        processor = self._engine.processor
        made = processor(
            text=[row.written for row in rows],
            images=[[row.image] for row in rows],
            padding=True,
            add_special_tokens=adds_special_tokens(processor, rows[0].written),
            return_tensors="pt",
        ).to(self._model.device, self._model.dtype)
        for row, length in zip(rows, made["attention_mask"].sum(1).tolist(), strict=True):
            _fit(row, length, _context(self._model))
        self._inputs, self.rows = dict(made), list(rows)

    def step(self, told: Callable[[], None]) -> None:
        if not self.rows:
            return
        end_ids, pad_id = self._engine.end_ids(), self._engine.pad_id()
        try:
            decode_any(self._model, self._inputs, end_ids, pad_id, _Telling(self.rows, end_ids, pad_id, told))
        except _AllOver:
            pass
        finally:
            self._inputs, self.rows = {}, []


class _AllOver(Exception):
    """No row needs another token."""


class _Telling:
    """Chooses for a whole batch."""

    def __init__(self, rows: list[Row], end_ids: list[int], pad_id: int, told: Callable[[], None]) -> None:
        self.sampling = SamplingConfig(max_tokens=max(row.max_tokens for row in rows))
        self._rows, self._end_ids, self._told = rows, end_ids, told
        self._filler = end_ids[0] if end_ids else pad_id

    def choose(self, logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        tokens = choose(self._rows, logits, self._end_ids)
        self._told()
        over = torch.tensor([row.is_over for row in self._rows], device=tokens.device)
        if bool(over.all()):
            raise _AllOver
        return torch.where(over, self._filler, tokens)


def _context(model: Any) -> int:
    """Tokens that the model has positions for."""
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or 1 << 30)


def _fit(row: Row, num_prompt_tokens: int, context: int) -> None:
    """Note what the prompt takes and leaves of the context. Raises SampleError when nothing is left."""
    row.num_prompt_tokens = num_prompt_tokens
    if num_prompt_tokens >= context:
        problem = f"picture and words take {num_prompt_tokens} tokens of a context of {context}"
        raise SampleError(Reason.ENGINE_ERROR, problem)
    row.max_tokens = min(row.sampling.max_tokens, context - num_prompt_tokens)
