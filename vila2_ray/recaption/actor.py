"""The actor that captions row ranges: decodes late, generates, writes the part, and gives back a row of figures."""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from vila2_ray.config import EngineConfig
from vila2_ray.corpus.layers import Parts
from vila2_ray.engines.choice import open_engine
from vila2_ray.errors import EngineDied
from vila2_ray.recaption.job import CaptionPlan
from vila2_ray.recaption.rows import caption, to_table
from vila2_ray.recaption.source import unpack
from vila2_ray.storage import Store

if TYPE_CHECKING:
    from vila2_ray.engines.base import Engine

_Item = TypeVar("_Item")

SUMMARY = pa.schema(
    [
        pa.field("source", pa.string()),
        pa.field("shard", pa.string()),
        pa.field("start", pa.int32()),
        pa.field("stop", pa.int32()),
        pa.field("captioned", pa.int32()),  # captions that the engine wrote
        pa.field("kept", pa.int32()),
        pa.field("failed", pa.int32()),
        pa.field("not_selected", pa.int32()),
        pa.field("tokens", pa.int64()),
        pa.field("seconds", pa.float64()),
        pa.field("engine", pa.string()),
    ]
)


@dataclass(frozen=True)
class ActorSpec:
    """What an actor needs to start anywhere."""

    checkpoint_folder: Store | Path
    engine: EngineConfig
    plan: CaptionPlan
    parts: Parts


class CaptionActor:
    """For `Dataset.map_batches`: a batch is one RANGE row, the answer one SUMMARY row."""

    def __init__(self, spec: ActorSpec) -> None:
        self._spec = spec
        self._opened: Engine | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        return pa.concat_tables([self._one(piece) for piece in batch.to_pylist()])

    @property
    def _engine(self) -> Engine:
        """Opened with the first range: Ray tells of an error in a call by its type, of one in a constructor by text."""
        if self._opened is None:
            self._opened = open_actor_engine(self._spec)
        return self._opened

    def _one(self, piece: dict[str, Any]) -> pa.Table:
        began, plan, spec = time.monotonic(), self._spec.plan, self._spec
        source, shard, start, stop = piece["source"], piece["shard"], piece["start"], piece["stop"]
        samples = [unpack(source, shard, packed) for packed in piece.pop("samples")]
        engine = self._engine
        try:
            rows = caption(engine, samples, plan, lambda made: read_ahead(made, engine.batch_size))
        except EngineDied as death:
            # a process whose engine is gone is of no use to the pool; Ray starts another and gives it the range again
            print(f"engine died on {shard} rows {start} to {stop - 1}: {death}", file=sys.stderr, flush=True)
            os._exit(1)
        table = to_table([*rows, *piece["settled"]], start, stop, plan.num_variants)
        spec.parts.write(source, shard, start, stop, table)
        status = [row["status"] for row in rows]
        return pa.Table.from_pylist(
            [
                {
                    "source": source,
                    "shard": shard,
                    "start": start,
                    "stop": stop,
                    "captioned": status.count("captioned"),
                    "kept": piece["num_kept"],
                    "failed": status.count("failed"),
                    "not_selected": len(piece["settled"]) - piece["num_kept"],
                    "tokens": sum(row["num_output_tokens"] or 0 for row in rows),
                    "seconds": time.monotonic() - began,
                    "engine": f"{engine.name} {engine.version}",
                }
            ],
            schema=SUMMARY,
        )


def open_actor_engine(spec: ActorSpec) -> Engine:
    """The engine on this process's share of the machine. Raises CheckpointError, ConfigError, StorageError."""
    folder = spec.checkpoint_folder
    local = folder.local_folder() if isinstance(folder, Store) else folder
    if spec.engine.name != "fake":
        import torch

        torch.set_num_threads(max(1, int(spec.engine.cpus_per_actor)))
    return open_engine(spec.engine.name, local, spec.engine.batch_size)


def read_ahead(items: Iterable[_Item], depth: int) -> Iterator[_Item]:
    """`items`, made by a thread up to `depth` ahead: images are decoded while the engine generates.

    What the making raises is raised here, in order.
    """
    ready: queue.Queue[tuple[_Item | None, BaseException | None, bool]] = queue.Queue(maxsize=max(1, depth))
    stopped = threading.Event()

    def put(entry: tuple[_Item | None, BaseException | None, bool]) -> None:
        while not stopped.is_set():
            try:
                return ready.put(entry, timeout=0.1)
            except queue.Full:
                continue

    def make() -> None:
        try:
            for item in items:
                put((item, None, False))
                if stopped.is_set():
                    return
            put((None, None, True))
        except BaseException as error:  # carried over to the thread that reads
            put((None, error, True))

    threading.Thread(target=make, name="decode-ahead", daemon=True).start()
    try:
        while True:
            item, error, last = ready.get()
            if error is not None:
                raise error
            if last:
                return
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
