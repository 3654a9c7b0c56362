"""Parquet shards: encoded images in a column (bytes, or a struct with `bytes` as the `datasets` library writes it).

Documents and conversations may have several in a list (`images`); they and text may have none.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vila2_ray.config import ColumnsConfig
from vila2_ray.corpus.samples import Sample, as_alt_text, problem_of
from vila2_ray.corpus.shards import ShardRef
from vila2_ray.errors import CorpusError, Reason, SampleError, StorageError
from vila2_ray.schema import INDEX, INDEX_WITH_PICTURES
from vila2_ray.storage import Store, split_uri

_BATCH_ROWS = 64
_IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp")
"""Names that are tried when `corpus.columns.image` is left at its default; img2dataset names the column by format."""


def index_shard(ref: ShardRef, columns: ColumnsConfig) -> pa.Table:
    """One row per Parquet row (INDEX); images are not touched. Raises CorpusError when the file or a column is bad."""
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    with _opened(ref) as file:
        if file is None:
            return INDEX.empty_table()
        image, alt_text, key = _columns(ref, file.schema_arrow, columns)
        wanted = [name for name in (alt_text, key) if name]
        numbers = range(file.metadata.num_rows)
        shown = _shown(file, image) if ref.holds != "pairs" else {}
        without = _without_image(file.schema_arrow)
        texts: list[Any] = [None] * len(numbers)
        keys: list[Any] = [None] * len(numbers)
        if wanted:
            table = file.read(columns=wanted)
            texts = _values(table[alt_text]) if alt_text else texts
            keys = _values(table[key]) if key else keys
    for number, text, told in zip(numbers, texts, keys, strict=True):
        name = as_alt_text(told) or f"{number:09}"
        row: dict[str, Any] = {"row": number, "key": name, "image_name": image or None}
        row["alt_text_chars"] = len(as_alt_text(text))
        if ref.holds != "pairs" and shown.get(number) is not True:
            row["problem"], row["problem_detail"] = without
            row["picture_numbers"] = shown.get(number) or None
        if name in seen:
            row.update(problem=Reason.DUPLICATE_KEY.value, problem_detail=f"a sample before it has the key {name!r}")
        seen.add(name)
        rows.append(row)
    has_numbered = any(row.get("picture_numbers") for row in rows)
    return pa.Table.from_pylist(rows, INDEX_WITH_PICTURES if has_numbered else INDEX)


def _shown(file: pq.ParquetFile, image: str) -> dict[int, bool | list[int]]:
    """Row → True where the column holds an image, or the numbers of those that its list holds."""
    shown: dict[int, bool | list[int]] = {}
    start = 0
    for batch in file.iter_batches(_BATCH_ROWS, columns=[image]) if image else ():
        column = batch.column(0)
        if not _is_list(column.type):
            shown |= {start + at: True for at, there in enumerate(_is_there(column)) if there}
        else:
            there = iter(_is_there(column.flatten()))
            for at, length in enumerate(pc.list_value_length(column).to_pylist()):
                shown[start + at] = [number for number in range(length or 0) if next(there)]
        start += batch.num_rows
    return shown


def _is_there(column: pa.Array) -> list[bool]:
    encoded = pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
    return pc.is_valid(encoded).to_pylist()


def _without_image(schema: pa.Schema) -> tuple[str, str]:
    """Reason and detail for a row that has no picture of its own."""
    if {"texts", "text_list"} & set(schema.names):
        return Reason.DOCUMENT.value, "interleaves images and texts"
    return Reason.NO_IMAGE.value, "has no picture of its own"


def read_rows(
    ref: ShardRef,
    index: pa.Table,
    rows: Sequence[int],
    columns: ColumnsConfig,
    truth: bool = False,
    images: bool = True,
) -> Iterator[Sample]:
    """Samples of `rows`, in the order asked for. Only the row groups that hold them are read, in batches."""
    entries = dict(zip(rows, index.take(pa.array(rows, pa.int64())).to_pylist(), strict=True))
    if list(entries) != sorted(entries) or len(entries) != len(rows):
        by_row = {s.row: s for s in read_rows(ref, index, sorted(entries), columns, truth, images)}
        yield from (by_row[row] for row in rows)
        return
    with _opened(ref) as file:
        if file is None or file.metadata.num_rows != index.num_rows:
            raise CorpusError(ref.uri, "has changed since it was indexed", "Delete its file below index/ and run again")
        image, alt_text, key = _columns(ref, file.schema_arrow, columns)
        names = tuple(name for name in file.schema_arrow.names if images or name != image)
        groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    for group, first, inside in _by_group(groups, entries):
        for start, batch in _batches(ref, names, group, first, inside[0], inside[-1]):
            data = {name: _values(batch.column(name)) for name in names}
            for number in (n for n in range(start, start + batch.num_rows) if n in entries):
                values = {name: column[number - start] for name, column in data.items()}
                told, text, _ = values.pop(image, None), values.pop(alt_text, None), values.pop(key, None)
                sample = _sample(ref, entries[number], _encoded(told) if images else None, text, values, images)
                listed = told if isinstance(told, list) else []
                sample.pictures = {
                    n: _encoded(listed[n]) if images else None for n in entries[number].get("picture_numbers") or ()
                }
                yield sample


@contextlib.contextmanager
def _opened(ref: ShardRef) -> Iterator[pq.ParquetFile | None]:
    """The file; None when it holds not a single byte, as interrupted writers leave it."""
    folder, name = split_uri(ref.uri)
    store = Store(folder)
    if store.size(name) == 0:
        yield None
        return
    with store.open(name) as native:
        try:
            yield pq.ParquetFile(native, pre_buffer=False, buffer_size=1 << 20)
        except StorageError:
            raise
        except (pa.ArrowInvalid, OSError) as error:  # arrow calls broken pages OSError
            remedy = "Download it again if it was cut off, or move it out of the corpus"
            raise CorpusError(ref.uri, "not a readable Parquet file", remedy) from error


def _columns(ref: ShardRef, schema: pa.Schema, columns: ColumnsConfig) -> tuple[str, str, str]:
    """Names of the image, alt-text and key columns; "" where the file has none, which pairs must have of images."""
    default = ColumnsConfig()
    candidates = _IMAGE_COLUMNS if columns.image == default.image else (columns.image,)
    if ref.holds != "pairs":
        candidates = ("images", *candidates)
    image = next((name for name in candidates if name in schema.names), "" if ref.holds != "pairs" else None)
    found = f"columns are {', '.join(schema.names)}"
    if image is None:
        raise CorpusError(ref.uri, f"no column of images; {found}", "Say which with corpus.columns.image=NAME")
    if image and not _holds_bytes(
        _element(schema.field(image).type) if ref.holds != "pairs" else schema.field(image).type
    ):
        remedy = "Encoded images are expected: bytes, or a struct with a field named bytes"
        raise CorpusError(ref.uri, f"column {image!r} is {schema.field(image).type}", remedy)
    for option, name in (("alt_text", columns.alt_text), ("key", columns.key)):
        if name not in schema.names and name != getattr(default, option):
            raise CorpusError(ref.uri, f"no column {name!r}; {found}", f"Set corpus.columns.{option} to one of them")
    alt_text = columns.alt_text if columns.alt_text in schema.names else ""
    return image, alt_text, columns.key if columns.key in schema.names else ""


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _element(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if _is_list(kind) else kind


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(kind.field(i).name == "bytes" and _holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


@dataclass
class _Cursor:
    """Where the reading of a row group stopped: pages cannot be skipped, so the next range goes on from here."""

    of: tuple[Any, ...]
    coming: Iterator[pa.RecordBatch]
    batch: pa.RecordBatch
    start: int
    """Row of the shard that `batch` begins with."""


_kept = threading.local()
"""`cursor`: the last one of each thread."""


def _by_group(num_rows: list[int], wanted: dict[int, Any]) -> Iterator[tuple[int, int, list[int]]]:
    """Number, first row and wanted rows of each row group that holds any."""
    start = 0
    for group, size in enumerate(num_rows):
        inside = [row for row in wanted if start <= row < start + size]
        if inside:
            yield group, start, inside
        start += size


def _batches(
    ref: ShardRef, names: tuple[str, ...], group: int, start: int, first: int, last: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Batches that hold rows [first, last] of the row group that begins with row `start`, with their first rows."""
    folder, name = split_uri(ref.uri)
    of = (ref.uri, Store(folder).stamp(name), names, group)
    cursor: _Cursor | None = getattr(_kept, "cursor", None)
    _kept.cursor = None  # taken: nobody else may move it meanwhile
    if cursor is None or cursor.of != of or cursor.start > first:
        coming = _group_batches(ref, names, group)
        cursor = _Cursor(of, coming, next(coming), start)
    while True:
        end = cursor.start + cursor.batch.num_rows
        if end > first:
            yield cursor.start, cursor.batch
        if end > last:
            break
        cursor.batch, cursor.start = next(cursor.coming), end
    _kept.cursor = cursor


def _group_batches(ref: ShardRef, names: tuple[str, ...], group: int) -> Iterator[pa.RecordBatch]:
    with _opened(ref) as file:
        assert file is not None
        yield from file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=list(names), use_threads=False)


def _values(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """Python values; text that is not UTF-8 becomes ""."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            return [None] * len(column)
        raw = column.cast(pa.large_binary()).to_pylist()
        return [None if data is None else as_alt_text(data) for data in raw]


def _encoded(value: Any) -> bytes | None:
    return value.get("bytes") if isinstance(value, dict) else value


def _sample(
    ref: ShardRef, row: dict[str, Any], image: bytes | None, text: Any, extra: dict[str, Any], images: bool
) -> Sample:
    problem = problem_of(row)
    if images and image is None and ref.holds == "pairs":
        problem = problem or SampleError(Reason.NO_IMAGE, f"column {row['image_name']!r} is null")
    return Sample(ref.source, ref.shard, row["row"], row["key"], image, as_alt_text(text), extra, None, problem)
