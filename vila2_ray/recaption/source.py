"""Row ranges as a Ray Data source: a read task goes through a window of ranges and gives one Arrow row for each.

A row carries the encoded images of its range and the rows that are settled without an engine; the pixels are made in
the actor that captions them. Image bytes leave the object store as soon as that actor is done with the range.
"""

from __future__ import annotations

import pickle
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from ray.data.block import Block, BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.layers import Layer
from vila2_ray.corpus.samples import Sample
from vila2_ray.corpus.screening import Screening
from vila2_ray.errors import Reason, SampleError, StageFailed, StorageError, Vila2Error
from vila2_ray.recaption.job import CaptionPlan
from vila2_ray.recaption.plan import RowRange
from vila2_ray.recaption.rows import Row, settle
from vila2_ray.schema import CAPTION

_SAMPLE = pa.struct(
    [
        pa.field("row", pa.int32()),
        pa.field("key", pa.string()),
        pa.field("image", pa.large_binary()),
        pa.field("problem", pa.string()),
        pa.field("problem_detail", pa.string()),
    ]
)
RANGE = pa.schema(
    [
        pa.field("source", pa.string()),
        pa.field("shard", pa.string()),
        pa.field("start", pa.int32()),
        pa.field("stop", pa.int32()),
        pa.field("samples", pa.list_(_SAMPLE)),  # to be captioned, with their encoded images
        pa.field("settled", pa.list_(pa.struct(list(CAPTION)))),  # rows that need no engine
        pa.field("num_kept", pa.int32()),
        pa.field("read_seconds", pa.float64()),
        pa.field("error", pa.binary()),  # what `packed_error` made; then nothing but the range and this is set
        pa.field("may_pass", pa.bool_()),  # the error is the storage's
    ]
)
"""One row per range, as it goes from reading to captioning."""


class RangeSource(Datasource):
    """Reads windows of row ranges, a task each."""

    def __init__(
        self,
        corpus: Corpus,
        windows: Sequence[Sequence[RowRange]],
        plan: CaptionPlan,
        keep: Layer | None,
        screening: Screening | None = None,
    ) -> None:
        super().__init__()
        self._corpus, self._windows, self._plan, self._keep = corpus, windows, plan, keep
        self._screening = screening

    def get_name(self) -> str:
        return "RowRanges"

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        return [self._task(list(window), per_task_row_limit) for window in self._windows]

    def _task(self, window: list[RowRange], per_task_row_limit: int | None) -> ReadTask:
        corpus = self._corpus.part(dict.fromkeys(piece.shard for piece in window))
        plan, keep = self._plan, self._keep
        screening = self._screening.over(corpus) if self._screening is not None else None

        def read() -> Iterable[Block]:
            return read_window(corpus, window, plan, keep, screening)

        metadata = BlockMetadata(num_rows=len(window), size_bytes=None, input_files=None, exec_stats=None)
        return ReadTask(read, metadata, schema=RANGE, per_task_row_limit=per_task_row_limit)


def read_window(
    corpus: Corpus,
    window: Sequence[RowRange],
    plan: CaptionPlan,
    keep: Layer | None,
    screening: Screening | None = None,
) -> Iterator[pa.Table]:
    """A table of one RANGE row for each range of the window; what cannot be read is its `error`."""
    known: _Known | None = None
    for piece in window:
        row: dict[str, Any] = {"source": piece.source, "shard": piece.shard, "start": piece.start, "stop": piece.stop}
        try:
            if known is None or known.shard != piece.shard:
                screened = _documents(corpus.index(piece.shard))
                screened |= screening.flags(piece.source, piece.shard) if screening is not None else {}
                known = _Known(piece.shard, kept_rows(keep, piece) if keep is not None else {}, screened)
            row.update(_read_range(corpus, piece, plan, known))
        except Exception as error:  # the driver decides what it means for the whole
            row |= {"error": packed_error(error), "may_pass": isinstance(error, StorageError)}
        yield pa.Table.from_pylist([row], schema=RANGE)


def _read_range(corpus: Corpus, piece: RowRange, plan: CaptionPlan, known: _Known) -> dict[str, Any]:
    began = time.monotonic()
    keys = corpus.index(piece.shard)["key"].slice(piece.start, piece.num_rows).to_pylist()
    rows = dict(zip(range(piece.start, piece.stop), keys, strict=True))
    settled = settle(piece.source, piece.shard, rows, known.kept, plan, known.screened)
    samples = [_packed(sample) for sample in corpus.read(piece.shard, settled.to_caption)]
    assert len(samples) == len(settled.to_caption), "a row that was asked for was not read"
    return {
        "samples": samples,
        "settled": settled.rows,
        "num_kept": settled.num_kept,
        "read_seconds": time.monotonic() - began,
    }


class _Known(NamedTuple):
    """What is known of the shard that is being read: its rows in the layer to keep, and flags of screened samples."""

    shard: str
    kept: dict[int, list[Row]]
    screened: dict[int, list[str]]


def _documents(index: pa.Table) -> dict[int, list[str]]:
    """Rows of interleaved documents, which pass through untouched, as screening would name them."""
    found = index.filter(pc.equal(index["problem"], Reason.DOCUMENT.value))["row"].to_pylist()
    return {row: [Reason.DOCUMENT.value] for row in found}


def packed_error(error: Exception) -> bytes:
    """An error as a value, to be raised by the driver: our own as it is, any other with its traceback in words."""
    if not isinstance(error, Vila2Error):
        error = StageFailed(f"recaptioning met an error that it does not know:\n{traceback.format_exc()}")
    return pickle.dumps(error)


def unpack(source: str, shard: str, packed: dict[str, Any]) -> Sample:
    """The sample that `read_window` packed: key, image and problem, which is all that captioning may see of it."""
    problem = SampleError(Reason(packed["problem"]), packed["problem_detail"] or "") if packed["problem"] else None
    return Sample(source, shard, packed["row"], packed["key"], packed["image"], alt_text="", problem=problem)


def _packed(sample: Sample) -> dict[str, Any]:
    return {
        "row": sample.row,
        "key": sample.key,
        "image": sample.image,
        "problem": sample.problem.reason.value if sample.problem else None,
        "problem_detail": sample.problem.detail if sample.problem else None,
    }


def kept_rows(keep: Layer, piece: RowRange) -> dict[int, list[Row]]:
    """Row → its captions in the layer to keep, of the whole shard that `piece` is in."""
    if not keep.has(piece.source, piece.shard):
        return {}
    table = keep.read(piece.source, piece.shard)
    rows: dict[int, list[Row]] = {}
    for row in table.filter(pc.equal(table["status"], "captioned")).to_pylist():
        rows.setdefault(row["row"], []).append(row)
    return rows
