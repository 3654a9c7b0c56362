"""A source's catalogue: what the index tells of each of its shards, in one file.

    index/<source>.catalogue.parquet      a row per shard: where it lies, its stamp, the counts and digest of its index

With the stamps that a listing of the corpus gives anyway, a corpus of any number of shards is opened by one listing and
one read. It only repeats what stands in the metadata of the index files: deleting it loses nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa

from vila2_ray.corpus.shards import ShardRef
from vila2_ray.errors import CorpusError, StorageError
from vila2_ray.storage import Store

_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("stamp", pa.string(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
        pa.field("num_samples", pa.int64(), nullable=False),
        pa.field("num_without_alt_text", pa.int64(), nullable=False),
        pa.field("problems", pa.string(), nullable=False),  # JSON: reason → samples
    ]
)
_NAMES = ("digest", "num_samples", "num_without_alt_text", "problems")


class ShardFacts(NamedTuple):
    """What the index tells of a shard as a whole."""

    stamp: str
    """Of the shard when it was indexed; its first word is the number of bytes."""
    digest: str
    """Of the index: the same samples, the same digest."""
    num_samples: int
    num_without_alt_text: int
    problems: str
    """JSON: reason → samples known bad before they are decoded."""

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> ShardFacts:
        """From the metadata of an index file."""
        digest, num_samples, num_without, problems = (metadata[name] for name in _NAMES)
        return cls(metadata["stamp"], digest, int(num_samples), int(num_without), problems)


class Catalogue:
    """The catalogue of one source, for one way of indexing (`identity`: what all its index files have in common)."""

    def __init__(self, store: Store, source: str, identity: Mapping[str, str]) -> None:
        self._store, self._name = store, f"{source}.catalogue.parquet"
        self._identity = json.dumps(identity, sort_keys=True)

    def write(self, facts: Sequence[tuple[ShardRef, ShardFacts]]) -> None:
        """Replace it by one of these shards."""
        columns = {
            "shard": [ref.shard for ref, _ in facts],
            "uri": [ref.uri for ref, _ in facts],
            **{name: [getattr(told, name) for _, told in facts] for name in ("stamp", *_NAMES)},
        }
        self._store.write_table(self._name, pa.table(columns, _SCHEMA), {"identity": self._identity})

    def read(self, stamps: Mapping[ShardRef, str]) -> dict[str, ShardFacts]:
        """Shard → facts, of those that it knows and that bear the same stamp today.

        Empty where there is no catalogue, or a damaged one, or one of another way of indexing.
        """
        try:
            if not self._store.exists(self._name):
                return {}
            table = self._store.read_table(self._name)
        except CorpusError:
            return {}
        if (table.schema.metadata or {}).get(b"identity", b"").decode() != self._identity:
            return {}
        now = {ref.shard: (ref.uri, stamp) for ref, stamp in stamps.items()}
        found = {}
        for shard, uri, stamp, digest, num_samples, num_without, problems in zip(
            *(table[name].to_pylist() for name in _SCHEMA.names), strict=True
        ):
            if now.get(shard) == (uri, stamp):
                found[shard] = ShardFacts(stamp, digest, num_samples, num_without, sys.intern(problems))
        return found


def catalogued_samples(store: Store, source: str) -> dict[str, int]:
    """Shard → samples, as the catalogue told last, whatever has changed since: for estimates."""
    try:
        table = store.read_table(f"{source}.catalogue.parquet", ["shard", "num_samples"])
    except (CorpusError, StorageError):
        return {}
    return dict(zip(table["shard"].to_pylist(), table["num_samples"].to_pylist(), strict=True))
