"""Recaptioning as a Ray Data pipeline: observe, subtract, run.

    windows of row ranges ─▶ read tasks (ranged reads) ─▶ pool of caption actors (decode, generate, write the part)
                                                          ─▶ a row of figures per range ─▶ this driver
    a shard whose ranges are all there ─▶ stateless finish task (layer file, then parts deleted)

Nothing is remembered between calls: what is done is what lies in the storage. Image columns leave the object store with
the range that carried them; what comes back to the driver is a few numbers.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext

from vila2_ray.config import EngineConfig
from vila2_ray.corpus.layers import Layer, Parts
from vila2_ray.errors import StageFailed, Vila2Error
from vila2_ray.progress import Progress
from vila2_ray.recaption.actor import ActorSpec, CaptionActor
from vila2_ray.recaption.job import RecaptionJob, RecaptionSummary
from vila2_ray.recaption.plan import Work, find_work, windows
from vila2_ray.recaption.source import RangeSource

__all__ = ["RecaptionJob", "RecaptionSummary", "recaption"]

_READ_CPUS = 0.1
"""Reading waits for storage; asking for less than the actors also keeps Ray Data from fusing the two."""


def recaption(job: RecaptionJob, progress: Progress) -> RecaptionSummary:
    """Write the layer of `job`, from wherever it stands. Ray must be initialised.

    Raises StageFailed when actors keep dying, and what reading, writing or loading raised: CorpusError, StorageError,
    CheckpointError, ConfigError. All finished ranges stay; the same call goes on from there.
    """
    began = time.monotonic()
    work = find_work(job.corpus, job.layer, job.parts, job.config.range_rows)
    name = job.metadata.get("layer", "recaption")
    progress.start(name, work.rows_total, "images")
    progress.update(work.rows_done)
    figures: Counter[str] = Counter()
    engine = job.config.engine.name
    finishing = _Finishing(job, work)
    if work.ranges:
        for row in _summaries(job, work, name):
            figures.update({key: row[key] for key in ("captioned", "kept", "failed", "not_selected", "tokens")})
            figures["samples"] += row["stop"] - row["start"]
            engine = row["engine"]
            finishing.covered(row["source"], row["shard"], row["stop"] - row["start"], engine)
            seconds = time.monotonic() - began
            progress.update(
                work.rows_done + figures["samples"],
                failed=str(figures["failed"]),
                tokens_per_s=f"{figures['tokens'] / seconds:,.0f}",
            )
    finishing.wait()
    progress.finish()
    return RecaptionSummary(
        num_rows=work.rows_total,
        num_samples=figures["samples"],
        num_captioned=figures["captioned"],
        num_kept=figures["kept"],
        num_failed=figures["failed"],
        num_not_selected=figures["not_selected"],
        num_tokens=figures["tokens"],
        num_shards=len(work.unfinished),
        seconds=time.monotonic() - began,
        engine=engine,
    )


def _summaries(job: RecaptionJob, work: Work, name: str) -> Iterator[dict[str, Any]]:
    """Run the pipeline; a SUMMARY row for each range as it is finished."""
    with warnings.catch_warnings():
        # Ray 2.60 wants named parameters, but has none for retries and restarts, which are endless if nothing is said;
        # and copying its context warns of the context's own old fields
        warnings.simplefilter("ignore", DeprecationWarning)
        context = _context(job.config.engine)
        with DataContext.current(context):
            dataset = _dataset(job, work)
    try:
        with DataContext.current(context):
            for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                yield from batch.to_pylist()
    except ray.exceptions.RayError as error:
        raise _explained(error, name) from error


def _context(engine: EngineConfig) -> DataContext:
    """Ray Data's settings for one recaptioning: quiet, a block per range, and an end to every retry."""
    for logger in ("ray.data", "ray.anyscale.data"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)  # what goes wrong is raised, in a sentence
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = 1  # a block is a row, a row is a range: the unit that actors take and give back
    context.target_min_block_size = 1
    context.raise_original_map_exception = True  # else only the text of an error comes back, not its type
    context.max_errored_blocks = 0
    context.actor_init_max_retries = 1
    context.max_consecutive_actor_init_deaths = engine.max_restarts + 1
    return context


def _dataset(job: RecaptionJob, work: Work) -> ray.data.Dataset:
    engine = job.config.engine
    pieces = windows(work.ranges, engine.max_actors)
    most = min(engine.max_actors, len(work.ranges))
    return ray.data.read_datasource(
        RangeSource(job.corpus, pieces, job.plan, job.keep),
        override_num_blocks=len(pieces),
        ray_remote_args={"num_cpus": _READ_CPUS, "max_retries": 3},
    ).map_batches(
        CaptionActor,
        fn_constructor_args=(ActorSpec(job.checkpoint_folder, engine, job.plan, job.parts),),
        batch_size=1,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ActorPoolStrategy(
            min_size=min(engine.min_actors, most), max_size=most, max_tasks_in_flight_per_actor=2
        ),
        num_cpus=engine.cpus_per_actor,
        num_gpus=engine.gpus_per_actor or None,
        max_restarts=engine.max_restarts,
        max_task_retries=engine.max_restarts,
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
        f"{name}: recaptioning gave up ({type(error).__name__}): an actor died more often than "
        "recaption.engine.max_restarts allows, or a node was lost. Finished row ranges are kept; the same command goes "
        "on from there. If it fails again at the same place, lower recaption.engine.batch_size or raise max_restarts"
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
