"""Judgements written by hand, as `vila2 judge export` writes them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from vila2_ray.schema import JUDGEMENT


def judgement(row: int, first: str, second: str, answer: str, **other: Any) -> dict[str, Any]:
    """A row of the exported table. Captions are `layer` or `layer.variant`; `other` columns than usual."""
    sides = [(name, int(variant or 0)) for name, _, variant in (side.partition(".") for side in (first, second))]
    shard = other.get("shard", "00000")
    usual = {
        "pair_id": f"{row:016x}",
        "source": "pretrain",
        "shard": shard,
        "row": row,
        "sample_id": f"{shard}/{row:03}",
        "first_layer": sides[0][0],
        "first_variant": sides[0][1],
        "second_layer": sides[1][0],
        "second_variant": sides[1][1],
        "rater": "ann",
        "kind": "person",
        "swapped": False,
        "criterion": "overall",
        "answer": answer,
        "edit": None,
        "voted_at": "2026-11-01T12:00:00+00:00",
        "seconds": 3.5,
        "reason": "",
    }
    return {**usual, **other}


def edited(row: int, layer: str, text: str, **other: Any) -> dict[str, Any]:
    """An edit of a caption, which stood first in its pair."""
    return judgement(row, layer, "alt_text", "first", criterion="edit", edit=text, **other)


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), JUDGEMENT)


def write_judgements(file: Path, *rows: dict[str, Any]) -> str:
    """A CSV or a Parquet file, by its ending; its path."""
    sink = io.BytesIO()
    if file.suffix == ".parquet":
        pyarrow.parquet.write_table(table(*rows), sink)
    else:
        pyarrow.csv.write_csv(table(*rows), sink)
    file.write_bytes(sink.getvalue())
    return str(file)
