"""Rows of annotation files, one at a time: Parquet, JSON Lines, or one JSON list; told apart by content."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from vila2_ray.errors import CorpusError
from vila2_ray.experts.annotationforms import FIELDS, REMEDY
from vila2_ray.storage import Store, split_uri

ENDINGS = (".parquet", ".jsonl", ".ndjson", ".json")
_BATCH_ROWS = 256
_CHUNK_BYTES = 1 << 20
_MAX_ROW_BYTES = 64 << 20
"""A row of a JSON file may take; more is no row of annotations."""


def read_rows(uri: str) -> Iterator[tuple[int, Any]]:
    """Number and fields of each row; None for one that is not JSON. Holds one row, or one batch of a Parquet file.

    Raises CorpusError for a file that is none of the three, StorageError when it cannot be read.
    """
    folder, name = split_uri(uri)
    with Store(folder).open(name) as file:
        begin = bytes(file.read(4))
        file.seek(0)
        if begin == b"PAR1":
            yield from enumerate(_parquet(uri, file))
            return
        stream = cast(BinaryIO, io.BufferedReader(cast(Any, file), _CHUNK_BYTES))
        first = _first(stream)
        stream.seek(0)
        if first == b"[":
            yield from enumerate(_elements(uri, stream))
        elif first in (b"{", b""):
            yield from enumerate(_lines(uri, stream))
        else:
            raise CorpusError(uri, "neither Parquet nor JSON", REMEDY)


def _first(stream: BinaryIO) -> bytes:
    """The first byte that is neither white space nor of a byte-order mark."""
    while (char := stream.read(1)) and char in b" \t\r\n\xef\xbb\xbf":
        pass
    return char


def _parquet(uri: str, file: pa.NativeFile) -> Iterator[dict[str, Any]]:
    try:
        table = pq.ParquetFile(file)
        kept = [field.name for field in table.schema_arrow if field.name in FIELDS and not _holds_bytes(field.type)]
        for batch in table.iter_batches(_BATCH_ROWS, columns=kept, use_threads=False):
            yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise CorpusError(uri, "not a readable Parquet file", "Make it anew") from error


def _holds_bytes(kind: pa.DataType) -> bool:
    """A column of pictures."""
    is_binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return is_binary or (pa.types.is_struct(kind) and any(_holds_bytes(field.type) for field in kind))


def _lines(uri: str, stream: BinaryIO) -> Iterator[Any]:
    while line := stream.readline(_MAX_ROW_BYTES):
        if len(line) >= _MAX_ROW_BYTES:
            raise CorpusError(uri, f"a line of more than {_MAX_ROW_BYTES:,} bytes", REMEDY)
        if line.strip():
            try:
                yield json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError):
                yield None


def _elements(uri: str, stream: BinaryIO) -> Iterator[Any]:
    """Elements of one JSON list, decoded as far as they have been read."""
    text = io.TextIOWrapper(cast(Any, stream), encoding="utf-8-sig", newline="")
    decoder = json.JSONDecoder()
    buffer, at, is_end = "", 0, False
    wanted, has_begun = _CHUNK_BYTES, False
    while True:
        while at < len(buffer) and (buffer[at] in " \t\r\n" or buffer[at] == ("," if has_begun else "[")):
            has_begun = has_begun or buffer[at] == "["
            at += 1
        if at < len(buffer):
            if buffer[at] == "]":
                return
            try:
                element, end = decoder.raw_decode(buffer, at)
            except (ValueError, RecursionError) as error:
                if is_end or len(buffer) - at > _MAX_ROW_BYTES:
                    raise CorpusError(uri, f"not JSON after so many elements ({error})", REMEDY) from error
            else:
                if end < len(buffer):  # else a number might go on
                    yield element
                    at = end
                    continue
        if is_end:
            raise CorpusError(uri, "a JSON list that does not end: the file is not whole", "Fetch it again")
        # an element that is longer than what was read is tried again with twice as much
        wanted = max(_CHUNK_BYTES, len(buffer) - at)
        try:
            more = text.read(wanted)
        except UnicodeDecodeError as error:
            raise CorpusError(uri, "not UTF-8", REMEDY) from error
        is_end = not more
        buffer, at = buffer[at:] + more, 0
