"""All shards of one source, with their index, as everything else reads them."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import pyarrow as pa
from PIL import Image

from vila2_ray.config import ColumnsConfig, SourceKind
from vila2_ray.corpus.catalogue import ShardFacts
from vila2_ray.corpus.images import decode_image
from vila2_ray.corpus.index import (
    catalogued,
    current_metadata,
    index_name,
    read_rows,
    shard_identity,
    write_index,
)
from vila2_ray.corpus.samples import Sample
from vila2_ray.corpus.shards import ShardRef, find_shards
from vila2_ray.errors import CorpusError, Reason, SampleError
from vila2_ray.storage import Store

_CACHED_INDEXES = 64


class Corpus:
    """Shards of one source. Picklable; opens nothing by itself. A shard is named by its ShardRef or its name.

    A shard whose index is missing or out of date is indexed when it is first asked for. What the index tells of shards
    as a whole comes from the source's catalogue, with one read, as far as that is up to date.
    """

    _has_read_catalogue: bool

    def __init__(self, shards: Sequence[ShardRef], index_store: Store, columns: ColumnsConfig, max_pixels: int) -> None:
        self.shards = list(shards)
        self.index_store, self.columns, self.max_pixels = index_store, columns, max_pixels
        self._by_name = {ref.shard: ref for ref in self.shards}
        self._facts: dict[str, ShardFacts] = {}
        self._forget()

    @classmethod
    def open(
        cls,
        uri_or_glob: str,
        source: str,
        index_store: Store,
        columns: ColumnsConfig | None = None,
        max_pixels: int = 64_000_000,
        holds: SourceKind = "pairs",
        images: str = "",
    ) -> Corpus:
        """The shards that `uri_or_glob` names. Raises CorpusError when there are none."""
        return cls(find_shards(uri_or_glob, source, holds, images), index_store, columns or ColumnsConfig(), max_pixels)

    def __getstate__(self) -> dict[str, Any]:
        names = ("shards", "index_store", "columns", "max_pixels", "_facts")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._forget()
        self.__dict__.update(state)
        self._by_name = {ref.shard: ref for ref in self.shards}

    def part(self, shards: Iterable[ShardRef | str]) -> Corpus:
        """The same corpus with these of its shards alone: what goes to another process, and costs it no look-up."""
        refs = [self.shard(shard) for shard in shards]
        part = Corpus(refs, self.index_store, self.columns, self.max_pixels)
        part._facts = {ref.shard: self._facts[ref.shard] for ref in refs if ref.shard in self._facts}
        return part

    def total_rows(self) -> int:
        """Samples of all shards."""
        return sum(told.num_samples for told in self._all_facts())

    def rows_by_shard(self) -> list[tuple[ShardRef, int]]:
        """Every shard with the number of its samples, in order."""
        return [(ref, told.num_samples) for ref, told in zip(self.shards, self._all_facts(), strict=True)]

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
        ref = self.shard(shard)
        if ref.shard not in self._facts:
            self._read_catalogue()
        return self._facts_of(ref).num_samples

    def index(self, shard: ShardRef | str) -> pa.Table:
        """The samples of a shard (INDEX), row i describing the shard's row i."""
        ref = self.shard(shard)
        with self._lock:
            if ref not in self._indexes:
                self._indexes[ref] = self._read_index(ref)
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

    def read_decoded(
        self, shard: ShardRef | str, rows: Sequence[int], at_once: int
    ) -> Iterator[list[tuple[Sample, Image.Image | SampleError]]]:
        """Samples of `rows` with their RGB images, or with why there is none, `at_once` of them at a time."""
        reading = self.read(shard, rows)
        while samples := list(islice(reading, at_once)):
            yield [(sample, self._decoded(sample)) for sample in samples]

    def _decoded(self, sample: Sample) -> Image.Image | SampleError:
        try:
            return self.decode(sample)
        except SampleError as problem:
            return problem

    def decode_numbered(self, sample: Sample, number: int) -> Image.Image:
        """The RGB image of that number; a sample without numbered ones has its image alone. Raises SampleError."""
        if not sample.pictures:
            return self.decode(sample)
        data = sample.pictures.get(number)
        if data is None:
            raise SampleError(Reason.NO_IMAGE, f"image {number} is not there")
        return decode_image(data, self.max_pixels)

    def digest(self) -> str:
        """SHA-256 over names, sizes and indexes of all shards: changes when one is added, removed or altered."""
        pairs = zip(self.shards, self._all_facts(), strict=True)
        # of the stamp only the size: copying a corpus changes its times
        names = [[ref.source, ref.shard, told.stamp.partition(" ")[0], told.digest] for ref, told in pairs]
        return hashlib.sha256(json.dumps(names).encode()).hexdigest()

    def _all_facts(self) -> list[ShardFacts]:
        if len(self._facts) < len(self.shards):
            self._facts.update(catalogued(self.shards, self.columns, self.index_store))
        with ThreadPoolExecutor(16) as pool:
            for _ in pool.map(self._facts_of, (ref for ref in self.shards if ref.shard not in self._facts)):
                pass
        return [self._facts[ref.shard] for ref in self.shards]

    def _facts_of(self, ref: ShardRef) -> ShardFacts:
        if ref.shard not in self._facts:
            found = None
            if self.index_store.exists(index_name(ref)):
                found = current_metadata(ref, self.columns, self.index_store)
            self._facts[ref.shard] = ShardFacts.of(found or write_index(ref, self.columns, self.index_store))
        return self._facts[ref.shard]

    def _read_catalogue(self) -> None:
        """Once: a shard that it does not know is looked up by itself."""
        with self._lock:
            if not self._has_read_catalogue:
                self._facts.update(catalogued(self.shards, self.columns, self.index_store))
            self._has_read_catalogue = True

    def _read_index(self, ref: ShardRef) -> pa.Table:
        """The shard's index file, made first where it is missing or of another state of the shard."""
        identity = shard_identity(ref, self.columns)
        if self.index_store.exists(index_name(ref)):
            table = self.index_store.read_table(index_name(ref))
            told = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
            if identity.items() <= told.items():
                return table
        self._facts[ref.shard] = ShardFacts.of(write_index(ref, self.columns, self.index_store))
        return self.index_store.read_table(index_name(ref))

    def _forget(self) -> None:
        self._indexes: OrderedDict[ShardRef, pa.Table] = OrderedDict()
        self._lock = threading.RLock()
        self._has_read_catalogue = False
