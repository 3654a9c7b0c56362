"""Pictures lying in a folder, with or without `.txt` and `.json` files of the same name beside them."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from vila2_ray.config import ColumnsConfig
from vila2_ray.corpus.samples import Sample, decode_fields, problem_of, split_alt_text
from vila2_ray.corpus.shards import IMAGE_ENDINGS, ShardRef, ending
from vila2_ray.errors import Reason, SampleError
from vila2_ray.schema import INDEX
from vila2_ray.storage import Store

_BESIDE = {"text": ".txt", "json": ".json", "truth": ".truth.json"}


def index_shard(ref: ShardRef, columns: ColumnsConfig) -> pa.Table:
    """One row per picture (INDEX). The key is the file name, without its ending unless two differ in that only."""
    store, files = Store(ref.uri), set(ref.files)
    rows: list[dict[str, Any]] = []
    keys: set[str] = set()
    for picture in (f for f in ref.files if ending(f) in IMAGE_ENDINGS):
        stem = posixpath.splitext(picture)[0]
        key = picture if stem in keys else stem
        keys.add(key)
        row: dict[str, Any] = {"row": len(rows), "key": key, "image_name": picture, "image_bytes": store.size(picture)}
        row.update({f"{slot}_bytes": store.size(stem + end) for slot, end in _BESIDE.items() if stem + end in files})
        row["alt_text_chars"] = len(_texts(store, row, columns)[0])
        rows.append(row)
    return pa.Table.from_pylist(rows, INDEX)


def read_rows(
    ref: ShardRef,
    index: pa.Table,
    rows: Sequence[int],
    columns: ColumnsConfig,
    truth: bool = False,
    images: bool = True,
) -> Iterator[Sample]:
    """Samples of `rows`, in the order asked for; a picture deleted since becomes NO_IMAGE."""
    store = Store(ref.uri)
    for row in index.take(pa.array(rows, pa.int64())).to_pylist():
        alt_text, extra = _texts(store, row, columns)
        problem, image = problem_of(row), None
        if images and store.exists(row["image_name"]):
            image = store.read_bytes(row["image_name"])
        elif images:
            problem = problem or SampleError(Reason.NO_IMAGE, f"{row['image_name']} is gone")
        told = decode_fields(_beside(store, row, "truth")) if truth and row["truth_bytes"] is not None else None
        yield Sample(ref.source, ref.shard, row["row"], row["key"], image, alt_text, extra, told, problem)


def _texts(store: Store, row: dict[str, Any], columns: ColumnsConfig) -> tuple[str, dict[str, Any]]:
    """Alt text and extra fields of the picture of an index row."""
    fields = decode_fields(_beside(store, row, "json")) if row.get("json_bytes") is not None else {}
    text = _beside(store, row, "text") if row.get("text_bytes") is not None else None
    return split_alt_text(text, fields, columns.alt_text)


def _beside(store: Store, row: dict[str, Any], slot: str) -> bytes:
    return store.read_bytes(posixpath.splitext(row["image_name"])[0] + _BESIDE[slot])
