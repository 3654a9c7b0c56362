"""All shards of one source, with their index, as everything else reads them."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
from PIL import Image

from vila2_ray.config import ColumnsConfig
from vila2_ray.corpus.images import decode_image
from vila2_ray.corpus.index import current_metadata, index_name, read_rows, write_index
from vila2_ray.corpus.samples import Sample
from vila2_ray.corpus.shards import ShardRef, find_shards
from vila2_ray.errors import CorpusError, Reason, SampleError
from vila2_ray.storage import Store

_CACHED_INDEXES = 8


class Corpus:
    """Shards of one source. Picklable; opens nothing by itself. A shard is named by its ShardRef or its name.

    A shard whose index is missing or out of date is indexed when it is first asked for.
    """

    def __init__(self, shards: Sequence[ShardRef], index_store: Store, columns: ColumnsConfig, max_pixels: int) -> None:
        self.shards = list(shards)
        self.index_store, self.columns, self.max_pixels = index_store, columns, max_pixels
        self._forget()

    @classmethod
    def open(
        cls,
        uri_or_glob: str,
        source: str,
        index_store: Store,
        columns: ColumnsConfig | None = None,
        max_pixels: int = 64_000_000,
    ) -> Corpus:
        """The shards that `uri_or_glob` names. Raises CorpusError when there are none."""
        return cls(find_shards(uri_or_glob, source), index_store, columns or ColumnsConfig(), max_pixels)

    def __getstate__(self) -> dict[str, Any]:
        names = ("shards", "index_store", "columns", "max_pixels")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def total_rows(self) -> int:
        """Samples of all shards."""
        return sum(int(told["num_samples"]) for told in self._all_metadata())

    def is_indexed(self, shard: ShardRef | str) -> bool:
        """Whether the shard has an index that is up to date."""
        ref = self.shard(shard)
        if not self.index_store.exists(index_name(ref)):
            return False
        return current_metadata(ref, self.columns, self.index_store) is not None

    @property
    def source(self) -> str:
        return self.shards[0].source if self.shards else ""

    def shard(self, shard: ShardRef | str) -> ShardRef:
        """The shard of that name. Raises CorpusError when there is none."""
        if isinstance(shard, ShardRef):
            return shard
        if shard not in self._by_name:
            raise CorpusError(
                shard, "no shard of this corpus", f"It has {len(self.shards)}, from {self.shards[0].shard!r} on"
            )
        return self._by_name[shard]

    def num_rows(self, shard: ShardRef | str) -> int:
        return int(self._metadata(self.shard(shard))["num_samples"])

    def index(self, shard: ShardRef | str) -> pa.Table:
        """The samples of a shard (INDEX), row i describing the shard's row i."""
        ref = self.shard(shard)
        with self._lock:
            if ref not in self._indexes:
                self._metadata(ref)
                self._indexes[ref] = self.index_store.read_table(index_name(ref))
                while len(self._indexes) > _CACHED_INDEXES:
                    self._indexes.popitem(last=False)
            self._indexes.move_to_end(ref)
            return self._indexes[ref]

    def read(
        self, shard: ShardRef | str, rows: Sequence[int] | None = None, truth: bool = False, images: bool = True
    ) -> Iterator[Sample]:
        """Samples of `rows` (default: all), in that order; `images` false spares the bytes, `truth` adds the truth."""
        ref, index = self.shard(shard), self.index(shard)
        wanted = range(index.num_rows) if rows is None else rows
        yield from read_rows(ref, index, wanted, self.columns, truth, images)

    def decode(self, sample: Sample) -> Image.Image:
        """The RGB image of a sample. Raises its problem, or what decoding finds, as SampleError."""
        if sample.problem:
            raise sample.problem
        if sample.image is None:
            raise SampleError(Reason.NO_IMAGE, "no image bytes were read")
        return decode_image(sample.image, self.max_pixels)

    def digest(self) -> str:
        """SHA-256 over names, sizes and indexes of all shards: changes when one is added, removed or altered."""
        pairs = zip(self.shards, self._all_metadata(), strict=True)
        # of the stamp only the size: copying a corpus changes its times
        names = [[ref.source, ref.shard, m["stamp"].partition(" ")[0], m["digest"]] for ref, m in pairs]
        return hashlib.sha256(json.dumps(names).encode()).hexdigest()

    def _all_metadata(self) -> list[dict[str, str]]:
        with ThreadPoolExecutor(16) as pool:
            return list(pool.map(self._metadata, self.shards))

    def _metadata(self, ref: ShardRef) -> dict[str, str]:
        if ref not in self._told:
            found = None
            if self.index_store.exists(index_name(ref)):
                found = current_metadata(ref, self.columns, self.index_store)
            self._told[ref] = found or write_index(ref, self.columns, self.index_store)
        return self._told[ref]

    def _forget(self) -> None:
        self._by_name = {ref.shard: ref for ref in self.shards}
        self._indexes: OrderedDict[ShardRef, pa.Table] = OrderedDict()
        self._told: dict[ShardRef, dict[str, str]] = {}
        self._lock = threading.RLock()
