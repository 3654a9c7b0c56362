"""WebDataset tar shards: `key.jpg|png|webp…`, `key.txt`, `key.json`, as img2dataset writes them.

Images of a document or of a conversation about several are `key.0.jpg`, `key.1.jpg` … beside its `key.json`.

The index is made by one walk through the headers and tells where in the tar everything lies; rows are then read by
offset, neighbours in one request. A tar is never unpacked.
"""

from __future__ import annotations

import io
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

import pyarrow as pa

from vila2_ray.config import ColumnsConfig
from vila2_ray.corpus import tarheaders
from vila2_ray.corpus.samples import (
    Sample,
    as_alt_text,
    decode_fields,
    decode_text,
    is_document,
    problem_of,
    split_alt_text,
)
from vila2_ray.corpus.shards import IMAGE_ENDINGS, ShardRef
from vila2_ray.errors import CorpusError, Reason
from vila2_ray.schema import INDEX, INDEX_WITH_PICTURES
from vila2_ray.storage import Store, split_uri

MAX_TEXT_BYTES = 1 << 20
MAX_JSON_BYTES = 16 << 20
MAX_IMAGE_BYTES = 256 << 20
_READ_AHEAD_BYTES = {True: 64 << 10, False: 1 << 20}
"""By whether the tar is on this machine: a request to a far store costs more than what it brings along."""
_GAP_BYTES = 64 << 10
"""Bytes between two members that are read along rather than asked for in a request of their own."""
_GROUP_BYTES = 16 << 20
_NUMBERED = re.compile(r"(\d{1,4})\.(\w+)")
_LIMITS = {"image": MAX_IMAGE_BYTES, "text": MAX_TEXT_BYTES, "json": MAX_JSON_BYTES, "truth": MAX_JSON_BYTES}


@dataclass
class _Entry:
    """A sample whose members are being found."""

    key: str
    duplicate: bool = False
    endings: set[str] = field(default_factory=set)
    members: dict[str, tarheaders.Member] = field(default_factory=dict)
    alt_texts: dict[str, str] = field(default_factory=dict)
    damage: str = ""
    is_document: bool = False
    """Its JSON interleaves images and texts, as MMC4 and OBELICS write them."""
    pictures: dict[int, tarheaders.Member] = field(default_factory=dict)
    """Number → image, where there is no single one."""


def index_shard(ref: ShardRef, columns: ColumnsConfig) -> pa.Table:
    """Where every sample of the tar lies (INDEX), in order of first appearance.

    A damaged tar keeps the samples before the damage; the one that it hits becomes SHARD_TRUNCATED. The second sample
    of the same key becomes DUPLICATE_KEY. Raises CorpusError when the file is no tar.
    """
    folder, name = split_uri(ref.uri)
    store = Store(folder)
    num_bytes = store.size(name)
    with store.open(name) as native:
        file = cast(BinaryIO, io.BufferedReader(cast(Any, native), _READ_AHEAD_BYTES[store.is_local]))
        try:
            entries = _entries(file, num_bytes, columns)
        except tarheaders.NotATarError:
            remedy = "Give WebDataset shards as plain .tar; unpack compressed ones, download broken ones again"
            raise CorpusError(ref.uri, "not a tar archive", remedy) from None
    schema = INDEX_WITH_PICTURES if any(entry.pictures for entry in entries) else INDEX
    return pa.Table.from_pylist([_row(number, entry) for number, entry in enumerate(entries)], schema)


def _entries(file: BinaryIO, num_bytes: int, columns: ColumnsConfig) -> list[_Entry]:
    entries: list[_Entry] = []
    latest: dict[str, _Entry] = {}
    numbered: dict[str, dict[int, tarheaders.Member]] = {}  # of keys that may turn out to be no sample's

    def entry_for(name: str) -> _Entry | None:
        """The sample that a member belongs to: a new one if the key is new, or its latest has such a member already."""
        key, ending = split_key(name)
        if not key or not _slot(ending):
            return None
        entry = latest.get(key)
        if entry is None or ending in entry.endings:
            entry = latest[key] = _Entry(key, duplicate=entry is not None)
            entries.append(entry)
        entry.endings.add(ending)
        return entry

    try:
        for member in tarheaders.walk(file, num_bytes):
            if (entry := entry_for(member.name)) is None:
                _note_numbered(member, numbered)
                continue
            slot = _slot(split_key(member.name)[1])
            readable = slot in ("text", "json") and member.size <= _LIMITS[slot]
            if entry.members.setdefault(slot, member) is member and readable:
                _look_inside(file, member, slot, columns, entry)  # now, while it is in the read-ahead
    except tarheaders.DamagedError as damage:
        hit = entry_for(damage.name) or (entries[-1] if entries else None)
        if hit:
            hit.damage = damage.problem
    for entry in entries:
        if "json" in entry.members and "image" not in entry.members and not entry.duplicate:
            entry.pictures = dict(sorted(numbered.get(entry.key, {}).items()))
    return entries


def _note_numbered(member: tarheaders.Member, numbered: dict[str, dict[int, tarheaders.Member]]) -> None:
    key, ending = split_key(member.name)
    found = _NUMBERED.fullmatch(ending)
    if key and found and found[2] in IMAGE_ENDINGS and member.size <= MAX_IMAGE_BYTES:
        numbered.setdefault(key, {}).setdefault(int(found[1]), member)


def split_key(name: str) -> tuple[str, str]:
    """WebDataset's rule: the key is the path up to the first dot of the file name; "" for hidden files."""
    folder, base = posixpath.split(name)
    stem, _, ending = base.partition(".")
    return (posixpath.join(folder, stem).removeprefix("./") if stem else ""), ending.lower()


def _slot(ending: str) -> str:
    if ending in IMAGE_ENDINGS:
        return "image"
    return {"txt": "text", "json": "json", "truth.json": "truth"}.get(ending, "")


def _look_inside(file: BinaryIO, member: tarheaders.Member, slot: str, columns: ColumnsConfig, entry: _Entry) -> None:
    """Note of a text or JSON member what the index says of it."""
    file.seek(member.offset)
    data = file.read(member.size)
    if slot == "text":
        entry.alt_texts[slot] = decode_text(data)
        return
    fields = decode_fields(data)
    entry.alt_texts[slot] = as_alt_text(fields.get(columns.alt_text))
    entry.is_document = is_document(fields)


def _row(number: int, entry: _Entry) -> dict[str, Any]:
    image = entry.members.get("image")
    reason, detail = None, None
    if entry.damage:
        reason, detail = Reason.SHARD_TRUNCATED, entry.damage
    elif entry.duplicate:
        reason, detail = Reason.DUPLICATE_KEY, f"a sample before it has the key {entry.key!r}"
    elif image is None and entry.is_document:
        reason, detail = Reason.DOCUMENT, "interleaves images and texts"
    elif image is None:
        reason, detail = Reason.NO_IMAGE, f"only {', '.join(sorted(entry.endings))}"
    elif image.size > MAX_IMAGE_BYTES:
        reason, detail = Reason.IMAGE_TOO_LARGE, f"{image.size:,} bytes, more than {MAX_IMAGE_BYTES:,}"
    row: dict[str, Any] = {"row": number, "key": entry.key, "image_name": image.name if image else None}
    for slot, member in entry.members.items():
        if member.size <= _LIMITS[slot]:
            row[f"{slot}_offset"], row[f"{slot}_bytes"] = member.offset, member.size
    if entry.pictures:
        row["picture_numbers"] = list(entry.pictures)
        row["picture_offsets"] = [member.offset for member in entry.pictures.values()]
        row["picture_bytes"] = [member.size for member in entry.pictures.values()]
    row["alt_text_chars"] = len(entry.alt_texts.get("text", entry.alt_texts.get("json", "")))
    row["problem"], row["problem_detail"] = reason and reason.value, detail
    return row


def read_rows(
    ref: ShardRef,
    index: pa.Table,
    rows: Sequence[int],
    columns: ColumnsConfig,
    truth: bool = False,
    images: bool = True,
) -> Iterator[Sample]:
    """Samples of `rows`, in the order asked for. Raises CorpusError when the tar is shorter than its index says."""
    folder, name = split_uri(ref.uri)
    slots = [s for s in _LIMITS if (images or s != "image") and (truth or s != "truth")]
    with Store(folder).open(name) as file:
        for group in _groups(index.take(pa.array(rows, pa.int64())).to_pylist(), slots):
            members = [m for row in group for m in _members(row, slots).values()]
            contents = _fetch(file, members, ref)
            for row in group:
                parts = {slot: contents[member] for slot, member in _members(row, slots).items()}
                yield _sample(ref, row, parts, columns)


def _members(row: dict[str, Any], slots: list[str]) -> dict[str, tuple[int, int]]:
    """Offset and bytes of what is to be read of a row; numbered images go by their number."""
    members = {s: (row[f"{s}_offset"], row[f"{s}_bytes"]) for s in slots if row[f"{s}_offset"] is not None}
    if "image" in slots and row.get("picture_numbers"):
        where = zip(row["picture_offsets"], row["picture_bytes"], strict=True)
        members |= dict(zip(map(str, row["picture_numbers"]), where, strict=True))
    return members


def _groups(rows: list[dict[str, Any]], slots: list[str]) -> Iterator[list[dict[str, Any]]]:
    """Rows in order, as many at a time as may lie in memory together."""
    group: list[dict[str, Any]] = []
    num_bytes = 0
    for row in rows:
        group.append(row)
        num_bytes += sum(size for _, size in _members(row, slots).values())
        if num_bytes >= _GROUP_BYTES:
            yield group
            group, num_bytes = [], 0
    if group:
        yield group


def _fetch(file: pa.NativeFile, members: list[tuple[int, int]], ref: ShardRef) -> dict[tuple[int, int], bytes]:
    """Contents by (offset, bytes); members that lie close together come with one request."""
    contents: dict[tuple[int, int], bytes] = {}
    members = sorted(set(members))
    first = 0
    while first < len(members):
        begin, last = members[first][0], first + 1
        end = begin + members[first][1]
        while last < len(members) and members[last][0] <= end + _GAP_BYTES:
            end, last = max(end, sum(members[last])), last + 1
        data = memoryview(file.read_at(end - begin, begin))
        if len(data) < end - begin:
            remedy = "It has changed since it was indexed: delete its file below index/ and run again"
            raise CorpusError(ref.uri, f"ends before byte {end:,}", remedy)
        for offset, size in members[first:last]:
            contents[offset, size] = bytes(data[offset - begin : offset - begin + size])
        first = last
    return contents


def _sample(ref: ShardRef, row: dict[str, Any], parts: dict[str, bytes], columns: ColumnsConfig) -> Sample:
    fields = decode_fields(parts.get("json", b""))
    alt_text, extra = split_alt_text(parts.get("text"), fields, columns.alt_text)
    truth = parts.get("truth")
    return Sample(
        source=ref.source,
        shard=ref.shard,
        row=row["row"],
        key=row["key"],
        image=parts.get("image"),
        alt_text=alt_text,
        extra=extra,
        truth=decode_fields(truth) if truth is not None else None,
        problem=problem_of(row),
        pictures={number: parts.get(str(number)) for number in row.get("picture_numbers") or ()},
    )
