"""The real source of training data: corpora with their layers, tokenized and decoded when asked for."""

from __future__ import annotations

import functools
import weakref
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from vila2_ray.corpus.samples import Sample
from vila2_ray.corpus.shards import ShardRef
from vila2_ray.errors import SampleError
from vila2_ray.train.items import StageItems
from vila2_ray.train.packplan import LENGTHS, ItemKey
from vila2_ray.train.source import ImageKey, Tokens
from vila2_ray.train.tokenize import ItemTokenizer

TOKEN_CACHE_BYTES = 500_000_000
_OVERHEAD_BYTES = 600
"""Of one item's tokens, as Python objects."""
_BATCH = 2048


class Measured(NamedTuple):
    """What a pack plan needs to know of a shard."""

    lengths: pa.Table
    """Schema LENGTHS."""
    num_truncated: int
    """Items that max_length cut short."""
    num_screened: int
    """Items that screening or a takedown leaves out."""


class CorpusSource:
    """A `Source` over the sources of a stage. What comes first stays in memory: tokens, pixels up to a limit."""

    def __init__(
        self,
        sources: Sequence[StageItems],
        tokenizer: ItemTokenizer,
        pixel_cache_bytes: int = 0,
        token_cache_bytes: int = TOKEN_CACHE_BYTES,
    ) -> None:
        self._sources = {items.corpus.source: items for items in sources}
        self._tokenizer = tokenizer
        self._tokens: dict[ItemKey, Tokens] = {}
        self._token_room = token_cache_bytes
        self._pixels: dict[ImageKey, torch.Tensor] = {}
        self._pixel_room = pixel_cache_bytes

    @property
    def blank(self) -> torch.Tensor:
        return self._tokenizer.blank

    @property
    def pixel_levels(self) -> np.ndarray | None:
        """[3, 256] float32: the numbers that pixels are made of; None where there may be others."""
        return self._tokenizer.pixel_levels

    @property
    def pad_token_id(self) -> int:
        return self._tokenizer.pad_token_id

    def measure(self, ref: ShardRef) -> Measured:
        """The items of a shard, as a pack plan is made from them."""
        items = self._sources[ref.source]
        left_out = items.screening.flags(ref.source, ref.shard) if items.screening is not None else {}
        made = self._tokenized(items, ref)
        kept = {key: tokens for key, tokens in made.items() if key.row not in left_out}
        num_truncated = sum(1 for tokens in kept.values() if tokens.num_truncated)
        return Measured(_lengths(kept), num_truncated, len(made) - len(kept))

    def tokens(self, keys: Sequence[ItemKey]) -> list[Tokens]:
        found = {key: self._tokens[key] for key in keys if key in self._tokens}
        wanted: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
        for key in keys:
            if key not in found:
                wanted[key.source, key.shard].add(key.row)
        for (source, shard), rows in wanted.items():
            items = self._sources[source]
            found.update(self._tokenized(items, items.corpus.shard(shard), sorted(rows)))
        return [found[key] for key in keys]

    def pixels(self, keys: Sequence[ImageKey]) -> Sequence[torch.Tensor | None]:
        """Files are read now; an image is decoded when it is looked at, so that hundreds of them lie here encoded."""
        samples: dict[tuple[str, str, int], Sample] = {}
        wanted: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
        for key in keys:
            if key not in self._pixels:
                wanted[key.source, key.shard].add(key.row)
        for (source, shard), rows in wanted.items():
            for sample in self._sources[source].corpus.read(shard, sorted(rows)):
                samples[source, shard, sample.row] = sample
        return _Decoded([functools.partial(self._made, key, samples.get(key[:3])) for key in keys])

    def _made(self, key: ImageKey, sample: Sample | None) -> torch.Tensor | None:
        if (kept := self._pixels.get(key)) is not None:
            return kept
        assert sample is not None, "what is not kept was read"
        try:
            made = self._tokenizer.pixels(self._sources[key.source].corpus.decode_numbered(sample, key.number))
        except SampleError:
            return None  # keeps its slot; the loop masks its loss
        size = made.numel() * made.element_size()
        if size <= self._pixel_room:
            self._pixels[key], self._pixel_room = made, self._pixel_room - size
        return made

    def _tokenized(self, items: StageItems, ref: ShardRef, rows: Sequence[int] | None = None) -> dict[ItemKey, Tokens]:
        """Tokens of every item of the shard, or of its `rows`, in that order."""
        keys, texts = [], []
        for sample in items.of_shard(ref, rows):
            images = [ImageKey(ref.source, ref.shard, sample.row, number) for number in sample.images]
            for number, item in enumerate(sample.items):
                keys.append(ItemKey(ref.source, ref.shard, sample.row, number))
                texts.append((item, images))
        made: list[Tokens] = []
        for at in range(0, len(texts), _BATCH):
            made += self._tokenizer(texts[at : at + _BATCH])
        found = dict(zip(keys, made, strict=True))
        for key, tokens in found.items():
            size = tokens.input_ids.nbytes + tokens.supervised.nbytes + _OVERHEAD_BYTES
            if key not in self._tokens and size <= self._token_room:
                self._tokens[key], self._token_room = tokens, self._token_room - size
        return found


class _Decoded(Sequence["torch.Tensor | None"]):
    """Images that are made when they are looked at, and again if nobody holds them any more."""

    def __init__(self, makers: list[Callable[[], torch.Tensor | None]]) -> None:
        self._makers = makers
        self._held: weakref.WeakValueDictionary[int, torch.Tensor] = weakref.WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._makers)

    def __getitem__(self, number: Any) -> Any:
        if (held := self._held.get(number)) is not None:
            return held
        made = self._makers[number]()
        if made is not None:
            self._held[number] = made
        return made


def _lengths(tokens: dict[ItemKey, Tokens]) -> pa.Table:
    columns: dict[str, Sequence[object]] = {
        **{name: [getattr(key, name) for key in tokens] for name in ItemKey._fields},
        "num_tokens": [len(made.input_ids) for made in tokens.values()],
        "num_supervised": [int(np.count_nonzero(made.supervised)) for made in tokens.values()],
        "num_images": [len(made.images) for made in tokens.values()],
    }
    return pa.table([pa.array(columns[f.name], f.type) for f in LENGTHS], schema=LENGTHS)
