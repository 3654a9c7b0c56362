"""Layers written by hand over a corpus of small pictures, for tests of what is thought of captions."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.layers import Layer
from vila2_ray.schema import CAPTION
from vila2_ray.storage import Store

SOURCE = "pretrain"


def write_corpus(folder: Path, sizes: Sequence[int], alt_text: str = "alt words {row}") -> Corpus:
    """Tars 00000 … of `sizes` pictures, every one of another colour."""
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    for number, size in enumerate(sizes):
        with tarfile.open(folder / "shards" / f"{number:05}.tar", "w") as archive:
            for row in range(size):
                picture = io.BytesIO()
                Image.new("RGB", (8, 6), (40 * row % 256, 90 * number % 256, 7 * row % 256)).save(picture, "PNG")
                for name, data in (
                    (f"{row:03}.png", picture.getvalue()),
                    (f"{row:03}.txt", alt_text.format(row=row).encode()),
                ):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    return Corpus.open(str(folder / "shards"), SOURCE, Store(folder / "index"))


def rows(
    shard: str, numbers: Sequence[int], variants: int = 1, change: Callable[[int, int], dict[str, Any]] | None = None
) -> pa.Table:
    """Rows of a layer; `change` gives columns that are other than usual by (row, variant)."""
    made = []
    for row in numbers:
        for variant in range(variants):
            usual: dict[str, Any] = {
                "source": SOURCE,
                "shard": shard,
                "row": row,
                "sample_id": f"{shard}/{row:03}",
                "variant": variant,
                "status": "captioned",
                "text": f"Thing {row} lies beside another one, number {variant}, in some room.",
                "prompt_id": "detailed",
                "finish_reason": "stop",
                "num_output_tokens": 12,
                "mean_logprob": -0.5,
                "min_logprob": -1.5,
            }
            other = (change or (lambda row, variant: {}))(row, variant)
            if other.get("status") == "failed":
                usual.update(dict.fromkeys(("text", "prompt_id", "finish_reason", "num_output_tokens")))
                usual.update(mean_logprob=None, min_logprob=None)
            made.append({**usual, **other})
    return pa.Table.from_pylist(made, CAPTION)


def write_layer(
    store: Store,
    corpus: Corpus,
    variants: int = 1,
    change: Callable[[str, int, int], dict[str, Any]] | None = None,
    metadata: dict[str, str] | None = None,
) -> Layer:
    """A whole layer over `corpus`; `change` as for `rows`, by (shard, row, variant)."""
    layer = Layer(store)
    for ref in corpus.shards:
        name = ref.shard
        one = (lambda row, variant, name=name: change(name, row, variant)) if change else None
        layer.write(SOURCE, name, rows(name, range(corpus.num_rows(ref)), variants, one), metadata)
    return layer
