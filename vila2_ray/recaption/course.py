"""How far one recaptioning is: figures of its row ranges, what failed in them, and shards that are whole by now."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import pickle
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import ray

from vila2_ray import logs
from vila2_ray.corpus.layers import Layer, Parts
from vila2_ray.errors import BudgetSpent, StageFailed, Vila2Error, own_cause
from vila2_ray.progress import Progress
from vila2_ray.recaption.actor import PARTS_OF_WORK
from vila2_ray.recaption.brake import Brake
from vila2_ray.recaption.failures import FailedRange, FailuresInARow
from vila2_ray.recaption.job import RecaptionJob, RecaptionSummary
from vila2_ray.recaption.plan import RowRange, Work

DRAIN_SECONDS = 300.0
"""That ranges in hand are waited for when the budget is spent: an actor that died meanwhile never tells of its."""


class Course:
    """What one call has done so far, told to `progress` as it goes on."""

    def __init__(self, job: RecaptionJob, work: Work, progress: Progress, began: float, brake: Brake) -> None:
        self._finishing = _Finishing(job, work)
        self._job, self._work, self._progress, self._began = job, work, progress, began
        self._failures = FailuresInARow(job.config.engine.max_failed_ranges, job.config.range_rows)
        self._again: list[RowRange] = []
        self._tried_again: set[RowRange] = set()
        self._figures: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._ranges_left = 0
        self._seconds: Counter[str] = Counter()
        self._brake = brake
        self._spent: BudgetSpent | None = None
        self._stopped_at = 0.0
        self._busy: dict[str, bool] = {}
        self._engine = job.config.engine.name
        self._opened_at = math.inf

    def take(self, row: dict[str, Any]) -> RowRange:
        """Count a SUMMARY row; the range that it is about.

        Raises the error that it carries, unless the storage deserves another try, and StageFailed when too many ranges
        have failed in a row.
        """
        piece = RowRange(row["source"], row["shard"], row["start"], row["stop"])
        self._busy[row["actor"]] = row["in_hand"] != 0
        if row["in_hand"] is not None:
            return piece
        if row["error"] is not None:
            error = pickle.loads(row["error"])
            if not row["may_pass"] or piece in self._tried_again:
                raise error
            self._failed(FailedRange(piece, str(error), row["actor"]))
            return piece
        if row["problem"] is not None:
            self._failed(FailedRange(piece, row["problem"], row["actor"]))
            return piece
        if row["captioned"]:
            self._failures.captioned(row["actor"])
        self._figures.update({key: row[key] for key in ("captioned", "kept", "failed", "not_selected", "tokens")})
        self._seconds.update({part: row[f"{part}_seconds"] for part in PARTS_OF_WORK})
        self._engine, self._opened_at = row["engine"], min(self._opened_at, row["opened_at"])
        self.settle(piece, row["reasons"])
        return piece

    def take_again(self) -> list[RowRange]:
        """Ranges that failed whole, to be tried once more."""
        again, self._again = self._again, []
        self._tried_again.update(again)
        return again

    def begin(self, num_ranges: int) -> None:
        """So many ranges are handed to the pool."""
        self._ranges_left = num_ranges

    def settle(self, piece: RowRange, reasons: Sequence[str] = (), **figures: int) -> None:
        """The range has its part; `figures` of it that are not yet counted, and the `reasons` of its failed rows."""
        self._figures.update(samples=piece.num_rows, **figures)
        self._reasons.update(reasons)
        self._ranges_left = max(0, self._ranges_left - 1)
        self._finishing.covered(piece.source, piece.shard, piece.num_rows, self._engine)
        seconds = time.monotonic() - self._began
        try:
            self._progress.update(
                self._work.rows_done + self._figures["samples"],
                failed=str(self._figures["failed"]),
                tokens_per_s=f"{self._figures['tokens'] / seconds:,.0f}",
                images=self._figures["samples"],
                captions=self._figures["captioned"],
                output_tokens=self._figures["tokens"],
                ranges_left=self._ranges_left,
                **{f"dead_letters.{reason}": count for reason, count in self._reasons.items()},
            )
        except BudgetSpent as spent:
            if self._spent is None:
                self._spent, self._stopped_at = spent, time.monotonic()
                self._brake.pull()

    @property
    def is_drained(self) -> bool:
        """Whether the budget is spent and no actor known has a range in hand, or one has had it for too long.

        Of an actor that has not finished its first ranges yet nobody knows; what it does is done again.
        """
        if self._spent is None:
            return False
        return not any(self._busy.values()) or time.monotonic() - self._stopped_at >= DRAIN_SECONDS

    def check(self) -> None:
        """Raises BudgetSpent where the budget is spent; shards that are whole have their files by then."""
        if self._spent is not None:
            self._finishing.wait()
            raise self._spent

    def finish(self) -> None:
        """Wait until every shard has its layer file. Raises what a finish task raised."""
        self._finishing.wait()
        self._progress.finish()

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

    def _failed(self, failed: FailedRange) -> None:
        self._again.append(failed.piece)
        piece = failed.piece
        where = {"source": piece.source, "shard": piece.shard, "start": piece.start, "stop": piece.stop}
        logs.tell("range failed whole", level=logging.WARNING, actor=failed.actor, **where)
        if row := self._failures.add(failed):
            actors = ", ".join(sorted({one.actor for one in row}))
            raise StageFailed(
                f"{name_of(self._job)}: {len(row)} row ranges in a row ended without a caption, which is as many as "
                f"recaption.engine.max_failed_ranges allows (in process {actors}). The first error was: "
                f"{row[0].problem}. Nothing of them is written, finished row ranges are kept: mend what the error says "
                "and run the same command"
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
            self._task.remote(
                job.parts, job.layer, source, shard, rows, job.config.num_variants, metadata, logs.about()
            )
        )

    def _collect(self, most: int) -> None:
        while len(self._running) > most:
            done, self._running = ray.wait(self._running, num_returns=1)
            try:
                ray.get(done)
            except ray.exceptions.RayError as error:
                raise explained(error, name_of(self._job)) from error


def name_of(job: RecaptionJob) -> str:
    """What messages call the layer."""
    return job.metadata.get("layer", "recaption")


def explained(error: BaseException, name: str) -> Vila2Error:
    """What a person can act on: our own error where one lies at the bottom, else which stage gave up and what to do."""
    if (own := own_cause(error)) is not None:
        return own
    if isinstance(error, ray.exceptions.RayTaskError):
        return StageFailed(f"{name}: recaptioning met an error that it does not know:\n{error}")
    return StageFailed(
        f"{name}: recaptioning gave up ({type(error).__name__}): the engine's process died on more row ranges than "
        "recaption.engine.max_dead_ranges allows. Finished row ranges are kept; the same command goes on from there. "
        "If it fails again, look for the cause in the actors' logs: too little memory (lower "
        "recaption.engine.batch_size), a broken GPU, or a checkpoint that the engine cannot run"
    )


def finish_shard(
    parts: Parts,
    layer: Layer,
    source: str,
    shard: str,
    num_rows: int,
    num_variants: int,
    metadata: dict[str, str],
    about: dict[str, str],
) -> None:
    """Put a shard's parts together. Stateless: may run twice, or again after a crash."""
    logs.adopt(about)
    parts.finish(layer, source, shard, num_rows, num_variants, metadata)
    logs.tell("shard finished", source=source, shard=shard, rows=num_rows)


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
