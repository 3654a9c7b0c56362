"""One image with its alt text, as it comes out of a shard."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from vila2_ray.errors import Reason, SampleError


@dataclass
class Sample:
    """A row of a shard. `problem` says why it can be neither captioned nor trained on as an image; all else is kept.

    A text-only conversation is a sample whose problem is NO_IMAGE; that of an interleaved document is DOCUMENT.
    """

    source: str
    shard: str
    row: int
    key: str
    image: bytes | None
    """Encoded, exactly as in the shard; None where there is none, or where it was not asked for."""
    alt_text: str
    """"" where it is missing, empty or not UTF-8."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Every other column or field of the sample, carried along."""
    truth: dict[str, Any] | None = None
    """What a composed scene holds; only for scoring."""
    problem: SampleError | None = None
    pictures: dict[int, bytes | None] = field(default_factory=dict)
    """Images of a document or of a conversation about several: number → encoded; None where not asked for."""

    @property
    def sample_id(self) -> str:
        return f"{self.shard}/{self.key}"


def decode_text(data: bytes) -> str:
    """Text of a caption without white space around it; "" when it is not UTF-8 or holds a NUL."""
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return ""
    return "" if "\0" in text else text


def decode_fields(data: bytes) -> dict[str, Any]:
    """Fields of a sample's JSON file; empty when it is not a JSON object in UTF-8."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):  # also what is not UTF-8
        return {}
    return found if isinstance(found, dict) else {}


def is_document(fields: dict[str, Any]) -> bool:
    """Whether a sample's JSON is an interleaved document: a list of texts (`texts`, MMC4: `text_list`)."""
    return any(isinstance(fields.get(name), list) for name in ("texts", "text_list"))


def as_alt_text(value: object) -> str:
    """Alt text from a JSON field or a Parquet value of any type."""
    if isinstance(value, bytes):
        return decode_text(value)
    if value is None or (isinstance(value, float) and math.isnan(value)) or isinstance(value, (dict, list, bool)):
        return ""
    text = str(value).strip()
    # lone surrogates (JSON can hold them) cannot be written as UTF-8
    return "" if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text) else text


def split_alt_text(text: bytes | None, fields: dict[str, Any], name: str) -> tuple[str, dict[str, Any]]:
    """Alt text of a sample and its other fields, from its text file (None: there is none) and its JSON fields.

    The JSON field `name` is the alt text where there is no text file; beside one it is kept if it says something else.
    """
    told = as_alt_text(fields.get(name))
    alt_text = told if text is None else decode_text(text)
    if told in ("", alt_text):
        fields = {key: value for key, value in fields.items() if key != name}
    return alt_text, fields


def problem_of(row: dict[str, Any]) -> SampleError | None:
    """The problem that a row of an index records."""
    return SampleError(Reason(row["problem"]), row["problem_detail"] or "") if row["problem"] else None
