"""What a shard of an export is: bytes of a tar, or of a Parquet file, made of fused samples."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vila2_ray.corpus.images import image_format
from vila2_ray.corpus.samples import Sample
from vila2_ray.corpus.shards import ShardRef

_ENDINGS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}
_CAPTION_FIELDS = [
    pa.field("layer", pa.string()),
    pa.field("round", pa.string()),
    pa.field("specialist", pa.string()),
    pa.field("model", pa.string()),
    pa.field("checkpoint_digest", pa.string()),
    pa.field("variant", pa.int16()),
    pa.field("prompt_id", pa.string()),
    pa.field("text", pa.string()),
    pa.field("mean_logprob", pa.float32()),
    pa.field("min_logprob", pa.float32()),
]
_CAPTIONS = pa.schema(
    [pa.field(n, pa.string()) for n in ("sample_id", "shard", "key", "image_sha256")] + _CAPTION_FIELDS
)


@dataclass(frozen=True)
class Fused:
    """A sample of the export."""

    sample: Sample
    text: str
    image_sha256: str
    captions: list[dict[str, Any]]
    """Every kept caption, of all layers, with what wrote it."""


@dataclass(frozen=True)
class Written:
    """A file of the export."""

    name: str
    data: bytes
    columns: dict[str, str] = field(default_factory=dict)
    """Of Parquet: name → Arrow type."""

    def told(self) -> dict[str, Any]:
        """What others want to know of it."""
        digest = hashlib.sha256(self.data).hexdigest()
        return {"name": self.name, "bytes": len(self.data), "sha256": digest, "columns": list(self.columns.items())}


def as_webdataset(ref: ShardRef, samples: Iterable[Fused]) -> Written:
    """`<shard>.tar`; no time, owner or order that a second run would change."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for fused in samples:
            sample, key = fused.sample, safe_key(fused.sample)
            if sample.problem is not None:  # an interleaved document
                _add(archive, f"{key}.json", json.dumps(sample.extra, ensure_ascii=False, default=plain).encode())
                continue
            assert sample.image is not None
            fields = {**_extra(sample, ("key", "alt_text", "image_sha256", "captions")), "key": sample.key}
            fields |= {"alt_text": sample.alt_text, "image_sha256": fused.image_sha256, "captions": fused.captions}
            _add(archive, f"{key}.{_ENDINGS[image_format(sample.image)]}", sample.image)
            _add(archive, f"{key}.txt", fused.text.encode())
            _add(archive, f"{key}.json", json.dumps(fields, ensure_ascii=False, default=plain).encode())
    return Written(f"{ref.shard}.tar", out.getvalue())


def as_parquet(ref: ShardRef, samples: Iterable[Fused]) -> Written:
    """`<shard>.parquet`: key, image, caption (the fused text), alt_text, image_sha256, captions, and extra columns."""
    told = list(samples)
    own: dict[str, pa.Array] = {
        "key": pa.array([f.sample.key for f in told], pa.string()),
        "image": pa.array([f.sample.image for f in told], pa.binary()),
        "caption": pa.array([f.text for f in told], pa.string()),
        "alt_text": pa.array([f.sample.alt_text for f in told], pa.string()),
        "image_sha256": pa.array([f.image_sha256 for f in told], pa.string()),
        "captions": pa.array([f.captions for f in told], pa.list_(pa.struct(_CAPTION_FIELDS))),
    }
    extras = [_extra(f.sample, tuple(own)) for f in told]
    names = sorted({name for extra in extras for name in extra})
    own.update({name: _column([extra.get(name) for extra in extras]) for name in names})
    return _table(ref, pa.table(own))


def as_captions(ref: ShardRef, samples: Iterable[Fused]) -> Written:
    """`<shard>.parquet`: a row for each kept caption, found again by sample id or image digest."""
    rows = []
    for fused in samples:
        sample = fused.sample
        known = {"sample_id": sample.sample_id, "shard": sample.shard, "key": sample.key}
        rows += [{**known, "image_sha256": fused.image_sha256, **caption} for caption in fused.captions]
    return _table(ref, pa.Table.from_pylist(rows, _CAPTIONS))


AS: Mapping[str, Callable[[ShardRef, Iterable[Fused]], Written]] = {
    "webdataset": as_webdataset,
    "parquet": as_parquet,
    "captions": as_captions,
}
"""Format → what writes it."""


def safe_key(sample: Sample) -> str:
    """The sample's key where it can name a tar member (no dots, no way out of a folder), else one made with the row."""
    safe = re.sub(r"[^\w/ -]+", "_", sample.key)
    safe = "/".join(part for part in safe.split("/") if part)
    return sample.key if safe == sample.key else f"{safe}-{sample.row:06}"


def plain(value: Any) -> Any:
    """What JSON can hold, of what Parquet can."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _table(ref: ShardRef, table: pa.Table) -> Written:
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    columns = {name: str(kind) for name, kind in zip(table.schema.names, table.schema.types, strict=True)}
    return Written(f"{ref.shard}.parquet", out.getvalue(), columns)


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def _extra(sample: Sample, taken: tuple[str, ...]) -> dict[str, Any]:
    """Extra columns; one that would hide a column of ours is called `source_…`."""
    extra = {k: v for k, v in sample.extra.items() if not (k == "key" and v == sample.key)}
    return {(f"source_{name}" if name in taken else name): value for name, value in extra.items()}


def _column(values: list[Any]) -> pa.Array:
    """An extra column with the type of its values; JSON where they have no common one."""
    kinds = {type(value) for value in values if value is not None}
    for kind, column in ((str, pa.string()), (bool, pa.bool_()), (int, pa.int64()), (bytes, pa.binary())):
        if kinds == {kind} and (kind is not int or all(v is None or abs(v) < 1 << 63 for v in values)):
            return pa.array(values, column)
    if kinds and kinds <= {int, float}:
        return pa.array([None if v is None else float(v) for v in values], pa.float64())
    return pa.array(
        [None if v is None else json.dumps(v, ensure_ascii=False, default=plain) for v in values], pa.string()
    )
