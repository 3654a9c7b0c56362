"""Shards built on the fly: pictures by PIL, tars and Parquet files around them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from vila2_ray.config import ColumnsConfig
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.schema import CAPTION
from vila2_ray.storage import Store

Members = Sequence[tuple[str, bytes]]


class Build:
    """What the tests make their input with."""

    @staticmethod
    def picture(
        color: Any = "red", size: tuple[int, int] = (8, 6), format: str = "PNG", mode: str = "RGB", **save: Any
    ) -> bytes:
        out = io.BytesIO()
        Image.new(mode, size, color).save(out, format, **save)
        return out.getvalue()

    @staticmethod
    def tar(path: Path, members: Members, **options: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w", **options) as archive:
            for name, data in members:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        return path

    @classmethod
    def samples(cls, num: int, first: int = 0, **extra: Any) -> list[tuple[str, bytes]]:
        """Members of `num` good samples with keys 000, 001, …; each image has its own colour."""
        members: list[tuple[str, bytes]] = []
        for i in range(first, first + num):
            fields = {"caption": f"alt {i}", "number": i, **extra}
            members += [
                (f"{i:03}.png", cls.picture((i % 256, 0, 0))),
                (f"{i:03}.txt", f"alt {i}".encode()),
                (f"{i:03}.json", json.dumps(fields).encode()),
            ]
        return members

    @staticmethod
    def corpus(
        uri: Path | str, index: Path, columns: ColumnsConfig | None = None, max_pixels: int = 1_000_000
    ) -> Corpus:
        return Corpus.open(str(uri), "pretrain", Store(str(index)), columns or ColumnsConfig(), max_pixels)

    @staticmethod
    def captions(
        shard: str, rows: Sequence[int], variants: int = 1, source: str = "pretrain", **columns: Any
    ) -> pa.Table:
        """Rows of a caption layer; `columns` override by name, with a value or a function of (row, variant)."""
        table = []
        for row in rows:
            for variant in range(variants):
                base: dict[str, Any] = {
                    "source": source,
                    "shard": shard,
                    "row": row,
                    "sample_id": f"{shard}/{row:03}",
                    "variant": variant,
                    "status": "captioned",
                    "text": f"a caption of row {row} variant {variant}.",
                    "prompt_id": "detailed",
                    "finish_reason": "stop",
                    "num_output_tokens": 5,
                    "mean_logprob": -0.5,
                    "min_logprob": -1.5,
                }
                base.update({k: v(row, variant) if callable(v) else v for k, v in columns.items()})
                table.append(base)
        return pa.Table.from_pylist(table, CAPTION)


@pytest.fixture
def build() -> type[Build]:
    return Build


@pytest.fixture
def one_tar(tmp_path: Path) -> Callable[..., Corpus]:
    """A corpus of one tar of the given members."""

    def make(members: Members, max_pixels: int = 1_000_000) -> Corpus:
        Build.tar(tmp_path / "shards" / "00000.tar", members)
        return Build.corpus(tmp_path / "shards", tmp_path / "index", max_pixels=max_pixels)

    return make
