"""Recaptioning as a Ray Data pipeline: observe, subtract, run.

    windows of row ranges ─▶ read tasks (ranged reads) ─▶ pool of caption actors (decode, generate, write the part)
                                                          ─▶ a row of figures per range ─▶ this driver
    a shard whose ranges are all there ─▶ stateless finish task (layer file, then parts deleted)
    a range whose actor died           ─▶ cut into pieces and run again; a single row that does it is `engine_died`

Nothing is remembered between calls: what is done is what lies in the storage. Image columns leave the object store with
the range that carried them; what comes back to the driver is a few numbers.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import pickle
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext

from vila2_ray.config import RecaptionConfig
from vila2_ray.corpus.layers import Layer, Parts
from vila2_ray.errors import StageFailed, Vila2Error
from vila2_ray.progress import Progress
from vila2_ray.recaption.actor import PARTS_OF_WORK, ActorSpec, CaptionActor
from vila2_ray.recaption.job import RecaptionJob, RecaptionSummary
from vila2_ray.recaption.plan import RowRange, Work, find_work, windows
from vila2_ray.recaption.rows import died_rows, to_table
from vila2_ray.recaption.source import RangeSource

__all__ = ["RecaptionJob", "RecaptionSummary", "recaption"]

_READ_CPUS = 0.1
"""Reading waits for storage; asking for less than the actors also keeps Ray Data from fusing the two."""
_PIECES = 16
"""A range that kills the engine is cut into so many: of 256 rows the one that does it is alone two passes later."""


def recaption(job: RecaptionJob, progress: Progress) -> RecaptionSummary:
    """Write the layer of `job`, from wherever it stands. Ray must be initialised.

    Raises StageFailed when too many ranges kill the engine, and what reading, writing or loading raised: CorpusError,
    StorageError, CheckpointError, ConfigError. All finished ranges stay; the same call goes on from there.
    """
    began = time.monotonic()
    work = find_work(job.corpus, job.layer, job.parts, job.config.range_rows)
    name = job.metadata.get("layer", "recaption")
    progress.start(name, work.rows_total, "images")
    progress.update(work.rows_done)
    course = _Course(job, work, progress, began)
    ranges, suspects = work.ranges, Counter[RowRange]()
    alone = False
    while ranges:
        unanswered = set(ranges)
        for row in _summaries(job, ranges, name, alone):
            unanswered.discard(course.take(row))
        died = [piece for piece in ranges if piece in unanswered]
        suspects.update(piece for piece in died if alone and piece.num_rows == 1)
        ranges, alone = _after_deaths(job, course, died, suspects), True
        if ranges:
            rows = sum(piece.num_rows for piece in ranges)
            progress.note(f"{name}: a process died that had {rows} rows in hand; trying them again in smaller pieces")
    course.finishing.wait()
    progress.finish()
    return course.summary()


def _after_deaths(
    job: RecaptionJob, course: _Course, died: list[RowRange], suspects: Counter[RowRange]
) -> list[RowRange]:
    """What is still to be done of ranges whose actor died while they were there, by their fault or not, cut smaller.

    A single row on which a process died twice, with nothing else in hand, is settled as `engine_died`.
    """
    if not died:
        return []
    written = job.parts.ranges()
    again: list[RowRange] = []
    for piece in died:
        if (piece.start, piece.stop) in written.get((piece.source, piece.shard), []):
            table = job.parts.read(piece.source, piece.shard, piece.start, piece.stop, ["status"])
            course.settle(piece, **Counter(table["status"].to_pylist()))  # its actor died between writing and telling
        elif suspects[piece] >= 2:
            key = job.corpus.index(piece.shard)["key"][piece.start].as_py()
            rows = died_rows(piece.source, piece.shard, piece.start, key, job.config.num_variants)
            table = to_table(rows, piece.start, piece.stop, job.config.num_variants)
            job.parts.write(piece.source, piece.shard, piece.start, piece.stop, table)
            course.settle(piece, failed=len(rows))
        else:
            again += piece.cut(_PIECES)
    return again


class _Course:
    """What one call has done so far, told to `progress` as it goes on."""

    def __init__(self, job: RecaptionJob, work: Work, progress: Progress, began: float) -> None:
        self.finishing = _Finishing(job, work)
        self._work, self._progress, self._began = work, progress, began
        self._figures: Counter[str] = Counter()
        self._seconds: Counter[str] = Counter()
        self._engine = job.config.engine.name
        self._opened_at = math.inf

    def take(self, row: dict[str, Any]) -> RowRange:
        """Count a SUMMARY row; the range that it is about. Raises the error that it carries."""
        if row["error"] is not None:
            raise pickle.loads(row["error"])
        self._figures.update({key: row[key] for key in ("captioned", "kept", "failed", "not_selected", "tokens")})
        self._seconds.update({part: row[f"{part}_seconds"] for part in PARTS_OF_WORK})
        self._engine, self._opened_at = row["engine"], min(self._opened_at, row["opened_at"])
        piece = RowRange(row["source"], row["shard"], row["start"], row["stop"])
        self.settle(piece)
        return piece

    def settle(self, piece: RowRange, **rows: int) -> None:
        """The range has its part; `rows`: status → rows of it that are not yet counted."""
        self._figures.update(samples=piece.num_rows, **rows)
        self.finishing.covered(piece.source, piece.shard, piece.num_rows, self._engine)
        seconds = time.monotonic() - self._began
        self._progress.update(
            self._work.rows_done + self._figures["samples"],
            failed=str(self._figures["failed"]),
            tokens_per_s=f"{self._figures['tokens'] / seconds:,.0f}",
        )

    def summary(self) -> RecaptionSummary:
        figures = self._figures
        return RecaptionSummary(
            num_rows=self._work.rows_total,
            num_samples=figures["samples"],
            num_captioned=figures["captioned"],
            num_kept=figures["kept"],
            num_failed=figures["failed"],
            num_not_selected=figures["not_selected"],
            num_tokens=figures["tokens"],
            num_shards=len(self._work.unfinished),
            seconds=time.monotonic() - self._began,
            engine=self._engine,
            generating_seconds=max(0.0, time.time() - self._opened_at),
            seconds_by_part={part: round(self._seconds[part], 3) for part in PARTS_OF_WORK},
        )


def _summaries(job: RecaptionJob, ranges: list[RowRange], name: str, alone: bool) -> Iterator[dict[str, Any]]:
    """Run the pipeline; a SUMMARY row for each range as it is finished, none for a range whose actor died.

    `alone`: one range at a time in an actor, so that a death is the fault of the range that was there.
    """
    with warnings.catch_warnings():
        # Ray 2.60 wants named parameters, but has none for retries and restarts, which are endless if nothing is said;
        # and copying its context warns of the context's own old fields
        warnings.simplefilter("ignore", DeprecationWarning)
        in_flight = 1 if alone else ranges_in_flight(job.config)
        deaths = job.config.engine.max_dead_ranges + len(ranges) // 1000
        context = _context(deaths * in_flight)
        with DataContext.current(context):
            dataset = _dataset(job, ranges, in_flight, deaths)
    try:
        with DataContext.current(context):
            for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                yield from batch.to_pylist()
    except ray.exceptions.RayError as error:
        raise _explained(error, name) from error


def ranges_in_flight(config: RecaptionConfig) -> int:
    """Ranges that an actor works on at once: those that fill the engine, one that ends, and one that begins."""
    held = 2 * config.engine.batch_size
    return min(64, 2 + math.ceil(held / (config.range_rows * config.num_variants)))


def _context(max_errored_blocks: int) -> DataContext:
    """Ray Data's settings for one recaptioning: quiet, a block per range, and an end to every retry."""
    for logger in ("ray.data", "ray.anyscale.data"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)  # what goes wrong is raised, in a sentence
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = 1  # a block is a row, a row is a range: the unit that actors take and give back
    context.target_min_block_size = 1
    context.raise_original_map_exception = True  # else only the text of an error comes back, not its type
    context.max_errored_blocks = max_errored_blocks  # a range without an answer is seen by its absence
    context.actor_init_max_retries = 1
    context.max_consecutive_actor_init_deaths = 3
    return context


def _dataset(job: RecaptionJob, ranges: list[RowRange], in_flight: int, deaths: int) -> ray.data.Dataset:
    engine = job.config.engine
    pieces = windows(ranges, engine.max_actors)
    most = min(engine.max_actors, len(ranges))
    return ray.data.read_datasource(
        RangeSource(job.corpus, pieces, job.plan, job.keep, job.screening),
        override_num_blocks=len(pieces),
        ray_remote_args={"num_cpus": _READ_CPUS, "max_retries": 3},
    ).map_batches(
        CaptionActor,
        fn_constructor_args=(ActorSpec.of(job),),
        batch_size=1,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ActorPoolStrategy(
            min_size=min(engine.min_actors, most),
            max_size=most,
            max_tasks_in_flight_per_actor=in_flight + (in_flight != 1),
            max_concurrent_calls_per_actor=in_flight,
            enable_true_multi_threading=True,
        ),
        num_cpus=engine.cpus_per_actor,
        num_gpus=engine.gpus_per_actor or None,
        max_restarts=deaths,
        max_task_retries=0,  # who waits for a lost node's actor to come back may wait for ever; see `_after_deaths`
    )


def _explained(error: BaseException, name: str) -> Vila2Error:
    """What a person can act on: our own error where one lies at the bottom, else which stage gave up and what to do."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, Vila2Error):
            return cause
        cause = getattr(cause, "cause", None) or cause.__cause__ or cause.__context__
    return StageFailed(
        f"{name}: recaptioning gave up ({type(error).__name__}): the engine's process died on more row ranges than "
        "recaption.engine.max_dead_ranges allows. Finished row ranges are kept; the same command goes on from there. "
        "If it fails again, look for the cause in the actors' logs: too little memory (lower "
        "recaption.engine.batch_size), a broken GPU, or a checkpoint that the engine cannot run"
    )


class _Finishing:
    """Counts covered rows and starts a finish task for every shard that is whole."""

    def __init__(self, job: RecaptionJob, work: Work) -> None:
        self._job, self._missing, self._num_rows = job, work.missing_by_shard, work.unfinished
        self._running: list[Any] = []
        self._task = ray.remote(num_cpus=0, max_retries=3)(finish_shard)
        for (source, shard), missing in self._missing.items():
            if not missing:
                self._start(source, shard, "")

    def covered(self, source: str, shard: str, num_rows: int, engine: str) -> None:
        self._missing[source, shard] -= num_rows
        if self._missing[source, shard] == 0:
            self._start(source, shard, engine)

    def wait(self) -> None:
        """Until all are done. Raises what a finish task raised."""
        self._collect(0)

    def _start(self, source: str, shard: str, engine: str) -> None:
        self._collect(32)
        job, rows = self._job, self._num_rows[source, shard]
        metadata = {**layer_metadata(job), **({"engine": engine} if engine else {})}
        self._running.append(
            self._task.remote(job.parts, job.layer, source, shard, rows, job.config.num_variants, metadata)
        )

    def _collect(self, most: int) -> None:
        while len(self._running) > most:
            done, self._running = ray.wait(self._running, num_returns=1)
            try:
                ray.get(done)
            except ray.exceptions.RayError as error:
                raise _explained(error, self._job.metadata.get("layer", "recaption")) from error


def finish_shard(
    parts: Parts, layer: Layer, source: str, shard: str, num_rows: int, num_variants: int, metadata: dict[str, str]
) -> None:
    """Put a shard's parts together. Stateless: may run twice, or again after a crash."""
    parts.finish(layer, source, shard, num_rows, num_variants, metadata)


def layer_metadata(job: RecaptionJob) -> dict[str, str]:
    """What is constant for the layer: the job's own, prompts and sampling."""
    texts = {prompt_id: job.prompts.text(prompt_id) for prompt_id in job.config.prompt_ids}
    return {
        **job.metadata,
        "prompts": json.dumps(texts, ensure_ascii=False),
        "sampling": json.dumps(dataclasses.asdict(job.config.sampling)),
        "plan_key": job.plan_key,
        "fraction": repr(job.fraction),
        "num_variants": str(job.config.num_variants),
        "engine": job.config.engine.name,
    }
