"""The real source of training data: a corpus with its layers, tokenized by shard, images decoded when asked for."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import torch

from vila2_ray.corpus.screening import Screening
from vila2_ray.corpus.shards import ShardRef
from vila2_ray.errors import SampleError
from vila2_ray.train.items import StageItems
from vila2_ray.train.packplan import LENGTHS, ItemKey
from vila2_ray.train.source import ImageKey, Tokens
from vila2_ray.train.tokenize import ItemTokenizer

_TOKEN_CACHE_ITEMS = 1_000_000
_BATCH = 2048


class CorpusSource:
    """A `Source` over one corpus. Tokens of recent shards and, up to `pixel_cache_bytes`, pixels are kept in memory."""

    def __init__(
        self,
        items: StageItems,
        tokenizer: ItemTokenizer,
        pixel_cache_bytes: int = 0,
        screening: Screening | None = None,
    ) -> None:
        self._items, self._tokenizer, self._screening = items, tokenizer, screening
        self._shards: OrderedDict[str, dict[tuple[int, int], Tokens]] = OrderedDict()
        self._num_cached = 0
        self._pixels: dict[ImageKey, torch.Tensor] = {}
        self._pixel_room = pixel_cache_bytes
        self.num_truncated = 0
        """Items of the shards measured so far that max_length cut short."""
        self.num_screened = 0
        """Items of those shards that screening or a takedown leaves out."""

    @property
    def blank(self) -> torch.Tensor:
        return self._tokenizer.blank

    @property
    def pad_token_id(self) -> int:
        return self._tokenizer.pad_token_id

    def lengths(self) -> Iterator[pa.Table]:
        """Schema LENGTHS, shard by shard: what a pack plan is made from."""
        for ref in self._items.corpus.shards:
            left_out = self._screening.flags(ref.source, ref.shard) if self._screening is not None else {}
            tokens = {key: made for key, made in self._shard(ref).items() if key[0] not in left_out}
            self.num_screened += len(self._shard(ref)) - len(tokens)
            self.num_truncated += sum(1 for made in tokens.values() if made.num_truncated)
            rows, items = zip(*tokens, strict=True) if tokens else ((), ())
            columns = {
                "source": [ref.source] * len(tokens),
                "shard": [ref.shard] * len(tokens),
                "row": rows,
                "item": items,
                "num_tokens": [len(made.input_ids) for made in tokens.values()],
                "num_supervised": [int(np.count_nonzero(made.supervised)) for made in tokens.values()],
            }
            yield pa.table([pa.array(columns[f.name], f.type) for f in LENGTHS], schema=LENGTHS)

    def tokens(self, keys: Sequence[ItemKey]) -> list[Tokens]:
        found: dict[ItemKey, Tokens] = {}
        for shard in dict.fromkeys(key.shard for key in keys):  # one after the other: a shard may push another out
            tokens = self._shard(self._items.corpus.shard(shard))
            found.update((key, tokens[key.row, key.item]) for key in keys if key.shard == shard)
        return [found[key] for key in keys]

    def pixels(self, keys: Sequence[ImageKey]) -> list[torch.Tensor | None]:
        found: dict[ImageKey, torch.Tensor | None] = {key: self._pixels[key] for key in keys if key in self._pixels}
        wanted: defaultdict[str, list[int]] = defaultdict(list)
        for key in keys:
            if key not in found:
                wanted[key.shard].append(key.row)
        for shard, rows in wanted.items():
            for sample in self._items.corpus.read(shard, sorted(rows)):
                key = ImageKey(sample.source, sample.shard, sample.row)
                try:
                    made = self._tokenizer.pixels(self._items.corpus.decode(sample))
                except SampleError:
                    found[key] = None  # keeps its slot; the loop masks its loss
                    continue
                found[key] = made
                size = made.numel() * made.element_size()
                if size <= self._pixel_room:
                    self._pixels[key], self._pixel_room = made, self._pixel_room - size
        return [found[key] for key in keys]

    def _shard(self, ref: ShardRef) -> dict[tuple[int, int], Tokens]:
        """(row, item) → tokens of every item of the shard."""
        if ref.shard not in self._shards:
            keys, items = [], []
            for sample in self._items.of_shard(ref):
                image = ImageKey(ref.source, ref.shard, sample.row) if sample.has_image else None
                for number, item in enumerate(sample.items):
                    keys.append((sample.row, number))
                    items.append((item, image))
            made: list[Tokens] = []
            for at in range(0, len(items), _BATCH):
                made += self._tokenizer(items[at : at + _BATCH])
            self._shards[ref.shard] = dict(zip(keys, made, strict=True))
            self._num_cached += len(made)
            while self._num_cached > _TOKEN_CACHE_ITEMS and len(self._shards) > 1:
                self._num_cached -= len(self._shards.popitem(last=False)[1])
        self._shards.move_to_end(ref.shard)
        return self._shards[ref.shard]
