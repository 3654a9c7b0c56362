"""Recaptioning as a Ray Data pipeline: observe, subtract, run.

    windows of row ranges ─▶ read tasks (ranged reads) ─▶ pool of caption actors (decode, generate, write the part)
                                                          ─▶ a row of figures per range ─▶ this driver
    a shard whose ranges are all there ─▶ stateless finish task (layer file, then parts deleted)
    a range whose actor died           ─▶ run again whole; died there twice: cut into pieces, until a single row that
                                          does it is `engine_died`
    progress says BudgetSpent            ─▶ ranges in hand are finished, no more are begun (brake.py), and it is raised
    a range that ends without any caption because the engine or the storage errs ─▶ run again, once; many in a row: stop

Nothing is remembered between calls: what is done is what lies in the storage. Image columns leave the object store with
the range that carried them; what comes back to the driver is a few numbers.
"""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Generator
from typing import Any

import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext, ExecutionResources
from ray.data.context import AutoscalingConfig

from vila2_ray.config import EngineConfig, RecaptionConfig
from vila2_ray.errors import Reason
from vila2_ray.progress import Progress
from vila2_ray.raydata import quiet_context
from vila2_ray.recaption.actor import ActorSpec, CaptionActor
from vila2_ray.recaption.brake import Brake
from vila2_ray.recaption.course import Course, explained, name_of
from vila2_ray.recaption.job import RecaptionJob, RecaptionSummary
from vila2_ray.recaption.plan import RowRange, find_work, windows
from vila2_ray.recaption.rows import died_rows, figures_of, to_table
from vila2_ray.recaption.source import RangeSource, kept_rows
from vila2_ray.recaption.suspects import Suspects

__all__ = ["RecaptionJob", "RecaptionSummary", "recaption"]

_READ_CPUS = 0.1
"""Reading waits for storage; asking for less than the actors also keeps Ray Data from fusing the two."""


def recaption(job: RecaptionJob, progress: Progress) -> RecaptionSummary:
    """Write the layer of `job`, from wherever it stands. Ray must be initialised.

    Raises StageFailed when too many ranges kill the engine, or fail in a row, and what reading, writing or loading
    raised: CorpusError, StorageError, CheckpointError, ConfigError. BudgetSpent, which `progress` raises, is passed on
    as soon as the ranges in hand are finished. All finished ranges stay; the same call goes on from there.
    """
    with Brake(job.parts.store) as brake:
        return _recaption(job, progress, brake)


def _recaption(job: RecaptionJob, progress: Progress, brake: Brake) -> RecaptionSummary:
    began = time.monotonic()
    work = find_work(job.corpus, job.layer, job.parts, job.config.range_rows)
    name = name_of(job)
    progress.start(name, work.rows_total, "images")
    progress.update(work.rows_done)
    course = Course(job, work, progress, began, brake)
    ranges, suspects = work.ranges, Suspects()
    alone = is_last_try = False
    while ranges:
        unanswered = set(ranges)
        course.begin(len(ranges))
        with contextlib.closing(_summaries(job, ranges, name, alone, is_last_try, brake)) as summaries:
            for row in summaries:
                unanswered.discard(course.take(row))
                if course.is_drained:
                    break
        course.check()
        died = _undone(job, course, [piece for piece in ranges if piece in unanswered])
        whole, smaller, hopeless = suspects.judge(died, alone)
        _settle_dead(job, course, hopeless)
        again = course.take_again()
        if died:
            rows, how = sum(piece.num_rows for piece in died), "in smaller pieces" if smaller else "once more"
            progress.note(f"{name}: a process or node was lost that had {rows} rows in hand; trying them {how}")
        if again:
            progress.note(f"{name}: {len(again)} row ranges ended without any caption; trying them again")
        ranges, alone, is_last_try = [*whole, *smaller, *again], bool(smaller), not whole
    course.finish()
    return course.summary()


def _undone(job: RecaptionJob, course: Course, died: list[RowRange]) -> list[RowRange]:
    """Those of the ranges whose actor died that have no part; the others died between writing and telling."""
    written = job.parts.ranges() if died else {}
    undone: list[RowRange] = []
    for piece in died:
        if (piece.start, piece.stop) in written.get((piece.source, piece.shard), []):
            table = job.parts.read(piece.source, piece.shard, piece.start, piece.stop)
            kept = kept_rows(job.keep, piece) if job.keep is not None else {}
            reasons = [reason for reason in table["error"].to_pylist() if reason]
            course.settle(piece, reasons, **figures_of(table, kept, job.config.num_variants))
        else:
            undone.append(piece)
    return undone


def _settle_dead(job: RecaptionJob, course: Course, hopeless: list[RowRange]) -> None:
    """Single rows that ended the process whenever they were tried."""
    for piece in hopeless:
        key = job.corpus.index(piece.shard)["key"][piece.start].as_py()
        rows = died_rows(piece.source, piece.shard, piece.start, key, job.config.num_variants)
        table = to_table(rows, piece.start, piece.stop, job.config.num_variants)
        job.parts.write(piece.source, piece.shard, piece.start, piece.stop, table)
        course.settle(piece, [Reason.ENGINE_DIED.value] * len(rows), failed=len(rows))


def _summaries(
    job: RecaptionJob, ranges: list[RowRange], name: str, alone: bool, is_last_try: bool, brake: Brake
) -> Generator[dict[str, Any]]:
    """Run the pipeline; a SUMMARY row for each range as it is finished, none for a range whose actor died.

    `alone`: one range at a time in an actor, so that a death is the fault of the range that was there.
    """
    with warnings.catch_warnings():
        # Ray 2.60 wants named parameters, but has none for retries and restarts, which are endless if nothing is said;
        # and copying its context warns of the context's own old fields
        warnings.simplefilter("ignore", DeprecationWarning)
        in_flight = 1 if alone else ranges_in_flight(job.config)
        deaths = job.config.engine.max_dead_ranges + len(ranges) // 1000
        context = _context(deaths * in_flight, job.config.engine)
        with DataContext.current(context):
            dataset = _dataset(job, ranges, in_flight, deaths, ActorSpec.of(job, is_last_try, brake))
    try:
        with DataContext.current(context):
            for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                yield from batch.to_pylist()
    except ray.exceptions.RayError as error:
        raise explained(error, name) from error


def ranges_in_flight(config: RecaptionConfig) -> int:
    """Ranges that an actor works on at once: those that fill the engine, one that ends, and one that begins.

    In an elastic pool a few more: Ray 2.60 rounds an actor's resources per range to five places (`ExecutionResources`);
    where that goes downward, its cluster autoscaler asks for one actor less than there may be, and one stays one.
    """
    engine = config.engine
    most = min(64, 2 + math.ceil(2 * engine.batch_size / (config.range_rows * config.num_variants)))
    if engine.min_actors == engine.max_actors:
        return most
    shares = engine.cpus_per_actor, engine.gpus_per_actor
    fitting = (n for n in range(most, 2 * most) if all(round(share / n, 5) * n >= share for share in shares))
    return next(fitting, most)


def _context(max_errored_blocks: int, engine: EngineConfig) -> DataContext:
    """Ray Data's settings for one recaptioning: a block per range, and an end to every retry.

    With a label selector all of it runs on such nodes. Ray Data 2.60 asks a busy cluster for one more node of each kind
    that it has; the labels on that wish keep it from ever starting the nodes of another stage.
    """
    context = quiet_context(max_errored_blocks)
    if engine.label_selector:
        context.execution_options.label_selector = dict(engine.label_selector)
        if engine.gpus_per_actor:
            most = engine.max_actors * engine.gpus_per_actor
            context.execution_options.resource_limits = ExecutionResources.for_limits(gpu=most)
    context.target_max_block_size = 1  # a block is a row, a row is a range: the unit that actors take and give back
    context.target_min_block_size = 1
    context.raise_original_map_exception = True  # else only the text of an error comes back, not its type
    context.actor_init_max_retries = 1
    # a pool grows when each of its slots is taken; by default it would want 1.75 ranges waiting for every slot
    context.autoscaling_config = AutoscalingConfig(actor_pool_util_upscaling_threshold=1.0)
    context.max_consecutive_actor_init_deaths = 3
    return context


def _dataset(
    job: RecaptionJob, ranges: list[RowRange], in_flight: int, deaths: int, spec: ActorSpec
) -> ray.data.Dataset:
    engine = job.config.engine
    pieces = windows(ranges, engine.max_actors)
    most = min(engine.max_actors, len(ranges))
    return ray.data.read_datasource(
        RangeSource(job.corpus, pieces, job.plan, job.keep, job.screening),
        override_num_blocks=len(pieces),
        ray_remote_args={"num_cpus": _READ_CPUS, "max_retries": 3},
    ).map_batches(
        CaptionActor,
        fn_constructor_args=(spec,),
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
        max_task_retries=0,  # who waits for a lost node's actor to come back may wait for ever; see `Suspects`
    )
