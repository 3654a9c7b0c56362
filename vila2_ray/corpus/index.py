"""The index of a corpus: one Parquet file per shard that tells its samples and where they lie, and one catalogue.

Making it is the only time that a whole shard is walked through. It is made anew for a shard that was touched or moved.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field

import pyarrow as pa

from vila2_ray.config import ColumnsConfig
from vila2_ray.corpus import folder, jsonfiles, parquet, tar
from vila2_ray.corpus.catalogue import Catalogue, ShardFacts
from vila2_ray.corpus.samples import Sample
from vila2_ray.corpus.shardfiles import table_digest
from vila2_ray.corpus.shards import ShardRef
from vila2_ray.progress import Progress
from vila2_ray.storage import Store, split_uri

_VERSION = "2"
_SHARDS_PER_CATALOGUE = 5000
"""Newly indexed ones after which the catalogue is written, so that a killed indexing finds them at once."""
_READERS = {"tar": tar, "parquet": parquet, "folder": folder, "json": jsonfiles}

Run = Callable[[Callable[[ShardRef], dict[str, str]], Sequence[ShardRef]], Iterable[dict[str, str]]]
"""Applies a picklable function to shards, in any order, and gives what it returns as it comes."""


@dataclass
class IndexSummary:
    """Counts over all shards of an index."""

    num_shards: int = 0
    num_samples: int = 0
    num_without_alt_text: int = 0
    problems: dict[str, int] = field(default_factory=dict)
    """Reason → samples known bad before they are decoded."""


def index_shard(ref: ShardRef, columns: ColumnsConfig) -> pa.Table:
    """Samples of a shard (INDEX). Raises CorpusError when it is not of its kind or lacks a column."""
    return _READERS[ref.kind].index_shard(ref, columns)


def read_rows(
    ref: ShardRef,
    index: pa.Table,
    rows: Sequence[int],
    columns: ColumnsConfig,
    truth: bool = False,
    images: bool = True,
) -> Iterator[Sample]:
    """Samples of `rows` in the order asked for, without image bytes where `images` is false."""
    yield from _READERS[ref.kind].read_rows(ref, index, rows, columns, truth, images)


def index_name(ref: ShardRef) -> str:
    """Where below the index folder the file of a shard lies."""
    return f"{ref.source}/{ref.shard}.parquet"


def build_index(
    shards: Sequence[ShardRef],
    columns: ColumnsConfig,
    store: Store,
    progress: Progress,
    run: Run | None = None,
) -> IndexSummary:
    """Index the shards of one source that have no current index yet, and write its catalogue.

    `run` spreads the work; the default does it here, one by one.
    """
    if not shards:
        return IndexSummary()
    source = shards[0].source
    there = set(store.list(source))
    known = catalogued(shards, columns, store)
    done = {ref: known[ref.shard] for ref in shards if ref.shard in known and index_name(ref) in there}
    num_catalogued = len(done)
    untold = [ref for ref in shards if ref not in done and index_name(ref) in there]
    with ThreadPoolExecutor(16) as pool:
        found = pool.map(lambda ref: current_metadata(ref, columns, store), untold)
        done.update((ref, ShardFacts.of(told)) for ref, told in zip(untold, found, strict=True) if told)
    missing = {ref.shard: ref for ref in shards if ref not in done}
    catalogue = Catalogue(store, source, _shared_identity(columns, shards[0]))
    progress.start("index", len(shards), "shards")
    progress.update(len(done))
    work = (run or map)(functools.partial(write_index, columns=columns, store=store), list(missing.values()))
    for number, told in enumerate(work, start=1):
        done[missing[told["shard"]]] = ShardFacts.of(told)
        progress.update(len(done))
        if number % _SHARDS_PER_CATALOGUE == 0:
            catalogue.write(list(done.items()))
    if num_catalogued < len(shards):
        catalogue.write([(ref, done[ref]) for ref in shards])
    progress.finish()
    return _summary(done.values())


def catalogued(shards: Sequence[ShardRef], columns: ColumnsConfig, store: Store) -> dict[str, ShardFacts]:
    """Shard → facts, as far as the catalogue of their source tells of shards that have not changed since; one read."""
    if not shards:
        return {}
    stamps = {ref: _stamp(ref) for ref in shards if ref.stamp or ref.kind == "folder"}
    return Catalogue(store, shards[0].source, _shared_identity(columns, shards[0])).read(stamps)


def write_index(ref: ShardRef, columns: ColumnsConfig, store: Store) -> dict[str, str]:
    """Index one shard and write its file; the file's metadata."""
    identity = shard_identity(ref, columns)  # before it is read: a change meanwhile must not pass unseen
    table = index_shard(ref, columns)
    problems = Counter(reason for reason in table["problem"].to_pylist() if reason)
    metadata = {
        **identity,
        "shard": ref.shard,
        "digest": table_digest(table),
        "num_samples": str(table.num_rows),
        "num_without_alt_text": str(table["alt_text_chars"].to_pylist().count(0)),
        "problems": json.dumps(problems, sort_keys=True),
    }
    store.write_table(index_name(ref), table, metadata)
    return metadata


def current_metadata(ref: ShardRef, columns: ColumnsConfig, store: Store) -> dict[str, str] | None:
    """Metadata of a shard's index file; None when the shard or the mapping of columns has changed since."""
    metadata = store.read_metadata(index_name(ref))
    return metadata if shard_identity(ref, columns).items() <= metadata.items() else None


def shard_identity(ref: ShardRef, columns: ColumnsConfig) -> dict[str, str]:
    """What an index depends on; the file's place and time as well, since tars are padded to sizes that soon repeat."""
    return {**_shared_identity(columns, ref), "uri": ref.uri, "stamp": _stamp(ref)}


def _shared_identity(columns: ColumnsConfig, ref: ShardRef) -> dict[str, str]:
    """What all shards of the source of `ref` have in common."""
    return {"index_version": _VERSION, "columns": json.dumps(asdict(columns), sort_keys=True), "holds": ref.holds}


def _stamp(ref: ShardRef) -> str:
    """Of the listing that found the shard, else asked for."""
    if ref.kind == "folder":
        return hashlib.sha256("\n".join(ref.files).encode("utf-8", "surrogateescape")).hexdigest()
    parent, name = split_uri(ref.uri)
    return ref.stamp or Store(parent).stamp(name)


def _summary(facts: Iterable[ShardFacts]) -> IndexSummary:
    summary, problems = IndexSummary(), Counter[str]()
    for told in facts:
        summary.num_shards += 1
        summary.num_samples += told.num_samples
        summary.num_without_alt_text += told.num_without_alt_text
        problems.update(json.loads(told.problems))
    summary.problems = dict(sorted(problems.items()))
    return summary
