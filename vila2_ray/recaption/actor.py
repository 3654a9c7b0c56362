"""The actor that captions row ranges: decodes late, generates, writes the part, and gives back a row of figures."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from vila2_ray import logs
from vila2_ray.config import EngineConfig
from vila2_ray.corpus.layers import Parts
from vila2_ray.engines.choice import open_engine
from vila2_ray.errors import EngineDied, Reason, StorageError
from vila2_ray.recaption.brake import Brake
from vila2_ray.recaption.feed import EngineFeed
from vila2_ray.recaption.job import CaptionPlan, RecaptionJob
from vila2_ray.recaption.rows import Captioning, to_table
from vila2_ray.recaption.source import packed_error, unpack
from vila2_ray.schema import Status
from vila2_ray.storage import Store

if TYPE_CHECKING:
    from vila2_ray.engines.base import Engine

PARTS_OF_WORK = ("read", "decode", "prepare", "engine", "write")
"""Where time goes, summed over threads and actors: what goes on side by side is counted side by side."""

SUMMARY = pa.schema(
    [
        pa.field("source", pa.string()),
        pa.field("shard", pa.string()),
        pa.field("start", pa.int32()),
        pa.field("stop", pa.int32()),
        pa.field("captioned", pa.int32()),  # captions that the engine wrote
        pa.field("kept", pa.int32()),
        pa.field("failed", pa.int32()),
        pa.field("reasons", pa.list_(pa.string())),  # of the failed rows, one each
        pa.field("not_selected", pa.int32()),
        pa.field("tokens", pa.int64()),
        pa.field("actor", pa.string()),
        pa.field("problem", pa.string()),  # the first engine error of a range that got no caption and was not written
        pa.field("engine", pa.string()),
        pa.field("opened_at", pa.float64()),  # Unix time at which the actor's engine was there
        *(pa.field(f"{part}_seconds", pa.float64()) for part in PARTS_OF_WORK),
        pa.field("in_hand", pa.int32()),  # ranges still worked on; set where this one was left to the brake
        pa.field("error", pa.binary()),  # what `packed_error` made; then nothing but range, actor and this is set
        pa.field("may_pass", pa.bool_()),  # the error is the storage's, in reading the range or writing its part
    ]
)


@dataclass(frozen=True)
class ActorSpec:
    """What an actor needs to start anywhere."""

    checkpoint_folder: Store | Path
    engine: EngineConfig
    plan: CaptionPlan
    parts: Parts
    settings: dict[str, Any]
    """Keyword arguments of `open_engine`."""
    is_last_try: bool = False
    """Whether a range that the engine fails whole is written as failed rows; if not, it is only told of."""
    brake: Brake | None = None
    about: dict[str, str] = field(default_factory=logs.about)
    """What its records are about: what the driver's are."""

    @classmethod
    def of(cls, job: RecaptionJob, is_last_try: bool = False, brake: Brake | None = None) -> ActorSpec:
        settings = job.config.engine_settings
        return cls(job.checkpoint_folder, job.config.engine, job.plan, job.parts, settings, is_last_try, brake)


class CaptionActor:
    """For `Dataset.map_batches` with several threads: a batch is one RANGE row, the answer one SUMMARY row.

    What goes wrong with a range comes back as its SUMMARY row's `error`. Only the death of this process does not, and
    Ray tells of that.
    """

    def __init__(self, spec: ActorSpec) -> None:
        self._spec = spec
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._opening = threading.Lock()
        self._opened: EngineFeed | None = None
        logs.adopt(spec.about)
        self._counting, self._in_hand = threading.Lock(), 0

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = [self._one(piece) for piece in batch.to_pylist()]
        return pa.Table.from_pylist(rows, schema=SUMMARY)

    def _one(self, piece: dict[str, Any]) -> dict[str, Any]:
        where = {name: piece[name] for name in ("source", "shard", "start", "stop")} | {"actor": self._name}
        with self._counting:
            if self._spec.brake is not None and self._spec.brake.is_pulled():
                return {**where, "in_hand": self._in_hand}
            self._in_hand += 1
        try:
            return {**where, **self._begun(piece)}
        finally:
            with self._counting:
                self._in_hand -= 1

    def _begun(self, piece: dict[str, Any]) -> dict[str, Any]:
        if piece["error"] is not None:
            return {"error": piece["error"], "may_pass": piece["may_pass"]}
        try:
            feed = self._feed()
        except Exception as error:
            return {"error": packed_error(error), "may_pass": False}
        try:
            return self._caption(piece, feed)
        except Exception as error:
            return {"error": packed_error(error), "may_pass": isinstance(error, StorageError)}

    def _caption(self, piece: dict[str, Any], feed: EngineFeed) -> dict[str, Any]:
        """Write the range's part; figures of it. Or the problem of one that the engine failed whole."""
        plan = self._spec.plan
        source, shard, start, stop = piece["source"], piece["shard"], piece["start"], piece["stop"]
        samples = [unpack(source, shard, packed) for packed in piece.pop("samples")]
        captioning = Captioning(feed.engine, samples, plan)
        rows = captioning.rows(feed.answer(captioning.requests()))
        num_captioned = sum(row["status"] == Status.CAPTIONED.value for row in rows)
        errors = [row["error_detail"] for row in rows if row["error"] == Reason.ENGINE_ERROR.value]
        if errors and not num_captioned and not self._spec.is_last_try:
            return {"problem": errors[0]}
        began = time.monotonic()
        table = to_table([*rows, *piece["settled"]], start, stop, plan.num_variants)
        self._spec.parts.write(source, shard, start, stop, table)
        reasons = [row["error"] for row in rows if row["error"]]
        if reasons:
            logs.tell("dead letters", source=source, shard=shard, start=start, stop=stop, reasons=Counter(reasons))
        return {
            "captioned": num_captioned,
            "kept": piece["num_kept"],
            "failed": len(rows) - num_captioned,
            "reasons": reasons,
            "not_selected": len(piece["settled"]) - piece["num_kept"],
            "tokens": sum(row["num_output_tokens"] or 0 for row in rows),
            "engine": f"{feed.engine.name} {feed.engine.version}",
            "opened_at": feed.opened_at,
            "read_seconds": piece["read_seconds"],
            "decode_seconds": captioning.decode_seconds,
            "prepare_seconds": captioning.prepare_seconds,
            "engine_seconds": feed.take_engine_seconds(),
            "write_seconds": time.monotonic() - began,
        }

    def _feed(self) -> EngineFeed:
        """Opened with the first range: an error in a constructor would reach the driver as text only."""
        with self._opening:
            if self._opened is None:
                spec = self._spec
                self._opened = EngineFeed(open_actor_engine(spec), spec.engine.decode_threads, _end_process)
            return self._opened


def open_actor_engine(spec: ActorSpec) -> Engine:
    """The engine on this process's share of the machine. Raises CheckpointError, ConfigError, StorageError."""
    folder = spec.checkpoint_folder
    local = folder.local_folder() if isinstance(folder, Store) else folder
    if spec.engine.name != "fake":
        import torch

        torch.set_num_threads(max(1, int(spec.engine.cpus_per_actor)))
    return open_engine(spec.engine, local, **spec.settings)


def _end_process(death: EngineDied) -> None:
    """A process whose engine is gone is of no use to the pool; Ray starts another and gives it the ranges again."""
    print(f"engine died: {death}", file=sys.stderr, flush=True)
    os._exit(1)
