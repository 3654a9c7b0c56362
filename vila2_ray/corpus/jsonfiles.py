"""Samples as JSON: a file of one list, as LLaVA's mixtures are published, or JSON Lines; images lie in a folder.

`image` names the picture of a sample, a list in `image` or `images` (MMC4: `image_info`) those of one with several, as
paths below the source's image folder. A path that leads out of it counts as missing. Samples are read by offset.
"""

from __future__ import annotations

import io
import itertools
import json
import posixpath
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, cast

import pyarrow as pa

from vila2_ray.config import ColumnsConfig
from vila2_ray.corpus.samples import (
    Sample,
    as_alt_text,
    decode_fields,
    is_document,
    problem_of,
    split_alt_text,
)
from vila2_ray.corpus.shards import ShardRef, ending
from vila2_ray.errors import CorpusError, Reason, SampleError
from vila2_ray.schema import INDEX, INDEX_WITH_PICTURES
from vila2_ray.storage import Store, is_remote, split_uri

_GAP_BYTES = 64 << 10
"""Bytes between two samples that are read along rather than asked for in a request of their own."""
_GROUP_BYTES = 8 << 20


def index_shard(ref: ShardRef, columns: ColumnsConfig) -> pa.Table:
    """One row per JSON object (INDEX). A key that was there before gets its row's number.

    A file of one list is held in memory meanwhile. Raises CorpusError when it is neither a list nor JSON Lines.
    """
    rows: list[dict[str, Any]] = []
    keys: set[str] = set()
    for number, (offset, data) in enumerate(_objects(ref)):
        fields = decode_fields(data)
        key = next((told for name in (columns.key, "id") if (told := as_alt_text(fields.get(name)))), f"{number:09}")
        key = f"{key}-{number}" if key in keys else key
        keys.add(key)
        name, numbered = _image_names(fields)
        reason, detail = None, None
        if name is None:
            reason = Reason.DOCUMENT if is_document(fields) else Reason.NO_IMAGE
            detail = "interleaves images and texts" if is_document(fields) else "names no image of its own"
        row = {"row": number, "key": key, "image_name": name, "json_offset": offset, "json_bytes": len(data)}
        row |= {"alt_text_chars": len(split_alt_text(None, fields, columns.alt_text)[0])}
        row |= {"problem": reason and reason.value, "problem_detail": detail}
        rows.append(row | ({"picture_numbers": sorted(numbered)} if numbered else {}))
    has_numbered = any("picture_numbers" in row for row in rows)
    return pa.Table.from_pylist(rows, INDEX_WITH_PICTURES if has_numbered else INDEX)


def read_rows(
    ref: ShardRef,
    index: pa.Table,
    rows: Sequence[int],
    columns: ColumnsConfig,
    truth: bool = False,
    images: bool = True,
) -> Iterator[Sample]:
    """Samples of `rows`, in the order asked for. Raises CorpusError when the file is shorter than its index says."""
    folder, name = split_uri(ref.uri)
    with Store(folder).open(name) as file:
        for group in _groups(index.take(pa.array(rows, pa.int64())).to_pylist()):
            begin = group[0]["json_offset"]
            end = max(row["json_offset"] + row["json_bytes"] for row in group)
            data = file.read_at(end - begin, begin)
            if len(data) < end - begin:
                remedy = "It has changed since it was indexed: delete its file below index/ and run again"
                raise CorpusError(ref.uri, f"ends before byte {end:,}", remedy)
            for row in group:
                at = row["json_offset"] - begin
                yield _sample(ref, row, decode_fields(data[at : at + row["json_bytes"]]), columns, images)


def _objects(ref: ShardRef) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of every object of the file."""
    folder, name = split_uri(ref.uri)
    with Store(folder).open(name) as native:
        file = cast(BinaryIO, io.BufferedReader(cast(Any, native), 1 << 20))
        if ending(name) == "json":
            yield from _elements(file.read(), ref)
            return
        offset = 0
        for line in file:
            if line.strip():
                yield offset, line
            offset += len(line)


def _elements(data: bytes, ref: ShardRef) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of every element of a JSON list."""
    remedy = "Give a list of samples, as LLaVA's files are, or JSON Lines named .jsonl"
    decoder = json.JSONDecoder()
    try:
        text = data.decode("utf-8")
        at = _skip(text, 0)
        if text[at : at + 1] != "[":
            raise CorpusError(ref.uri, "holds no list", remedy)
        at, counted, offset = _skip(text, at + 1), 0, 0
        while text[at : at + 1] != "]":
            _, end = decoder.raw_decode(text, at)
            offset += len(text[counted:at].encode())
            element = text[at:end].encode()
            yield offset, element
            offset, counted, at = offset + len(element), end, _skip(text, end)
            if text[at : at + 1] == ",":
                at = _skip(text, at + 1)
    except (ValueError, RecursionError) as error:
        if isinstance(error, CorpusError):
            raise
        raise CorpusError(ref.uri, f"not JSON in UTF-8 ({error})", remedy) from error


def _skip(text: str, at: int) -> int:
    """The next place without white space (or a byte-order mark)."""
    return next((i for i in itertools.count(at) if text[i : i + 1] not in (" ", "\n", "\t", "\r", "\ufeff")), at)


def _image_names(fields: dict[str, Any]) -> tuple[str | None, dict[int, str]]:
    """The picture's path, or those of several by number."""
    single = fields.get("image")
    if isinstance(single, str):
        return (single if _is_inside(single) else None), {}
    told = next((found for name in ("image", "images") if isinstance(found := fields.get(name), list)), None)
    if told is None and isinstance(fields.get("image_info"), list):
        told = [info.get("image_name") if isinstance(info, dict) else None for info in fields["image_info"]]
    return None, {n: name for n, name in enumerate(told or []) if isinstance(name, str) and _is_inside(name)}


def _is_inside(name: str) -> bool:
    path = posixpath.normpath(name)
    return bool(name) and not is_remote(name) and "://" not in name and not path.startswith(("/", "..")) and path != "."


def _groups(rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Rows that lie close together and in order, and come with one request."""
    group: list[dict[str, Any]] = []
    for row in rows:
        if group:
            last = group[-1]["json_offset"] + group[-1]["json_bytes"]
            is_near = last <= row["json_offset"] <= last + _GAP_BYTES
            if not is_near or row["json_offset"] - group[0]["json_offset"] > _GROUP_BYTES:
                yield group
                group = []
        group.append(row)
    if group:
        yield group


def _sample(ref: ShardRef, row: dict[str, Any], fields: dict[str, Any], columns: ColumnsConfig, images: bool) -> Sample:
    name, numbered = _image_names(fields)
    alt_text, extra = split_alt_text(None, fields, columns.alt_text)
    problem, image = problem_of(row), None
    pictures: dict[int, bytes | None] = dict.fromkeys(sorted(numbered))
    if images:
        store = Store(ref.images)
        image = _bytes(store, name)
        pictures = {number: _bytes(store, numbered[number]) for number in pictures}
        if name is not None and image is None:
            problem = problem or SampleError(Reason.NO_IMAGE, f"{name} is not in the folder of images")
    return Sample(ref.source, ref.shard, row["row"], row["key"], image, alt_text, extra, None, problem, pictures)


def _bytes(store: Store, name: str | None) -> bytes | None:
    return store.read_bytes(name) if name is not None and store.exists(name) else None
