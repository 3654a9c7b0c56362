"""The index of a corpus: one Parquet file per shard that tells its samples and where they lie.

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
from vila2_ray.corpus import folder, parquet, tar
from vila2_ray.corpus.samples import Sample
from vila2_ray.corpus.shardfiles import table_digest
from vila2_ray.corpus.shards import ShardRef
from vila2_ray.progress import Progress
from vila2_ray.storage import Store, split_uri

_VERSION = "1"
_READERS = {"tar": tar, "parquet": parquet, "folder": folder}

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
    """Index the shards that have no current index yet. `run` spreads the work; the default does it here, one by one."""
    there = set(store.list())
    known = [ref for ref in shards if index_name(ref) in there]
    with ThreadPoolExecutor(16) as pool:
        current = dict(zip(known, pool.map(lambda ref: current_metadata(ref, columns, store), known), strict=True))
    done = [told for told in current.values() if told]
    missing = [ref for ref in shards if not current.get(ref)]
    progress.start("index", len(shards), "shards")
    progress.update(len(done))
    for told in (run or map)(functools.partial(write_index, columns=columns, store=store), missing):
        done.append(told)
        progress.update(len(done))
    progress.finish()
    return _summary(done)


def write_index(ref: ShardRef, columns: ColumnsConfig, store: Store) -> dict[str, str]:
    """Index one shard and write its file; the file's metadata."""
    identity = _identity(ref, columns)  # before it is read: a change meanwhile must not pass unseen
    table = index_shard(ref, columns)
    problems = Counter(reason for reason in table["problem"].to_pylist() if reason)
    metadata = {
        **identity,
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
    return metadata if _identity(ref, columns).items() <= metadata.items() else None


def _identity(ref: ShardRef, columns: ColumnsConfig) -> dict[str, str]:
    """What an index depends on; the file's place and time as well, since tars are padded to sizes that soon repeat."""
    if ref.kind == "folder":
        stamp = hashlib.sha256("\n".join(ref.files).encode("utf-8", "surrogateescape")).hexdigest()
    else:
        parent, name = split_uri(ref.uri)
        stamp = Store(parent).stamp(name)
    told = {"index_version": _VERSION, "uri": ref.uri, "stamp": stamp}
    return {**told, "columns": json.dumps(asdict(columns), sort_keys=True)}


def _summary(all_metadata: Iterable[dict[str, str]]) -> IndexSummary:
    summary, problems = IndexSummary(), Counter[str]()
    for metadata in all_metadata:
        summary.num_shards += 1
        summary.num_samples += int(metadata["num_samples"])
        summary.num_without_alt_text += int(metadata["num_without_alt_text"])
        problems.update(json.loads(metadata["problems"]))
    summary.problems = dict(sorted(problems.items()))
    return summary
