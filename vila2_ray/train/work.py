"""What a rank does in a training stage, under Ray Train or in a process of its own."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict

import pyarrow as pa
import torch

from vila2_ray.config import semantic_fields
from vila2_ray.corpus.shards import ShardRef
from vila2_ray.engines.choice import vllm_problem
from vila2_ray.model.loading import load_model, load_processor
from vila2_ray.progress import Progress
from vila2_ray.train.checkpoint import StepStore
from vila2_ray.train.corpussource import CorpusSource, Measured
from vila2_ray.train.export import export_folder, weights_dtype
from vila2_ray.train.features import LossModule
from vila2_ray.train.feed import RemoteSource
from vila2_ray.train.figures import StepFigures, model_shape
from vila2_ray.train.guard import LossGuard
from vila2_ray.train.items import StageItems
from vila2_ray.train.job import TrainingJob, TrainingSummary, thinned
from vila2_ray.train.loop import StepReport, Watch, fit
from vila2_ray.train.packplan import PackPlan, make_plan
from vila2_ray.train.parallelize import Place
from vila2_ray.train.tokenize import ItemTokenizer
from vila2_ray.train.tracking import Tracker, open_tracker
from vila2_ray.train.weights import meta_model

_PLAN, _FINISHED = "plan.parquet", "finished.json"


def open_source(job: TrainingJob, keeps: bool = True) -> CorpusSource:
    """The job's data. Pixels are kept for a tower that trains; of a frozen one, its outputs are kept (`features`).

    Without `keeps` nothing stays in memory: what is read is handed on to another process.
    """
    tokenizer = ItemTokenizer(load_processor(job.init), job.settings.max_length)
    sources = [
        StageItems(s.corpus, s.layers, job.config, job.stage, s.kind, s.screening, s.specialists, s.apart, s.alt_text)
        for s in job.sources
    ]
    if not keeps:
        return CorpusSource(sources, tokenizer, token_cache_bytes=0)
    room = job.config.train.feature_cache_bytes if "vision" in job.settings.trained else 0
    return CorpusSource(sources, tokenizer, room)


def open_remote(job: TrainingJob) -> CorpusSource | RemoteSource:
    """The job's data for a rank under Ray, made by its data workers where it has any."""
    source, num_workers = open_source(job), job.config.train.data_workers
    return RemoteSource(source, functools.partial(open_source, job, False), num_workers) if num_workers else source


class ShardMeasurer:
    """Measures shards of a job anywhere: picklable, and a process opens the job's data once."""

    def __init__(self, job: TrainingJob) -> None:
        self._job = job
        self._source: CorpusSource | None = None

    def __call__(self, ref: ShardRef) -> Measured:
        self._source = self._source or open_source(self._job, keeps=False)
        return self._source.measure(ref)


Spread = Callable[[Callable[[ShardRef], Measured], list[ShardRef]], Iterable[Measured]]
"""Applies a picklable function to shards, here or on a cluster, results in order."""


def ready_plan(
    job: TrainingJob, source: CorpusSource | None, progress: Progress, spread: Spread | None = None
) -> PackPlan:
    """The plan in `job.packs`, made and written when it is missing or other work's.

    `source` spares a second tokenization where the caller trains in the same process; `spread` tokenizes elsewhere.
    """
    if (found := read_plan(job)) is not None:
        return found
    refs = [ref for source in job.sources for ref in source.corpus.shards]
    progress.start(f"plan {job.title}", len(refs), "shards")
    measured: list[Measured] = []
    spread = spread or map
    for shard in spread(source.measure if source is not None else ShardMeasurer(job), refs):
        measured.append(shard)
        progress.update(len(measured))
    progress.finish()
    settings, train = job.settings, job.config.train
    shares = {source.corpus.source: source.share for source in job.sources}
    plan = make_plan(
        pa.concat_tables(m.lengths for m in measured),
        settings,
        seed=job.config.seed,
        shuffle_window=train.shuffle_window,
        shares=shares,
    )
    counts = {
        "num_too_long": plan.num_too_long,
        "num_empty": plan.num_empty,
        "num_truncated": sum(m.num_truncated for m in measured),
    }
    if any(s.screening is not None for s in job.sources):
        counts["num_screened"] = sum(m.num_screened for m in measured)
    left_out = ", ".join(f"{count:,} {name[4:].replace('_', ' ')}" for name, count in counts.items() if count)
    progress.note(
        f"{job.title}: {plan.num_items:,} items in {plan.num_steps:,} steps, {plan.num_tokens:,} tokens"
        + (f" ({left_out})" if left_out else "")
    )
    if job.mixture:
        told = (f"{name} {found['items']:,} ({found['tokens']:,} tokens)" for name, found in plan.by_source().items())
        progress.note(f"{job.title}: items by source: {', '.join(told)}")
    metadata = {"key": job.plan_key(), **{name: str(count) for name, count in counts.items()}}
    job.packs.write_table(_PLAN, plan.table, metadata)
    return plan


def read_plan(job: TrainingJob) -> PackPlan | None:
    """The job's plan, if it has been made."""
    if not job.packs.exists(_PLAN):
        return None
    metadata = job.packs.read_metadata(_PLAN)
    if metadata.get("key") != job.plan_key():
        return None
    counts = {name: int(metadata[name]) for name in ("num_too_long", "num_empty")}
    return PackPlan(job.packs.read_table(_PLAN), job.settings.batch_size, **counts)


def read_summary(job: TrainingJob, plan: PackPlan) -> TrainingSummary | None:
    """The summary of the finished stage; None when it is not finished, or its folder is gone."""
    return read_finished(job, job.work_key(plan.digest))


def read_finished(job: TrainingJob, work: str) -> TrainingSummary | None:
    """What was left of a stage when it was finished, if that was the same work and its folder is still there."""
    if not (job.state.exists(_FINISHED) and job.out.exists("config.json")):
        return None
    finished = json.loads(job.state.read_text(_FINISHED))
    if finished["work"] != work:
        return None
    summary = finished["summary"]
    return TrainingSummary(**{**summary, "losses": [(step, loss) for step, loss in summary["losses"]]})


def train_rank(
    job: TrainingJob,
    plan: PackPlan,
    source: CorpusSource | RemoteSource,
    place: Place,
    on_step: Callable[[StepReport], None],
    watch: Watch | None = None,
) -> None:
    """Train as one rank; rank 0 also leaves the finished folder in `job.out` and the summary in `job.state`."""
    began = time.monotonic()
    train, settings = job.config.train, job.settings
    work = job.work_key(plan.digest)
    alone = place.world == 1
    model = load_model(job.init, torch.float32) if alone else meta_model(job.init)
    checkpoints = StepStore(
        job.state, work, train.checkpoint_every_seconds, train.checkpoint_every_steps, train.keep_checkpoints
    )
    prepared = time.monotonic() - began
    exported: list[tuple[str | None, float]] = []

    def export(module: LossModule) -> None:
        trained = time.monotonic()
        server = job.config.recaption.engine if train.check_with_vllm and not vllm_problem() else None
        digest = export_folder(module, load_processor(job.init), weights_dtype(job.init), job.out, place, server)
        exported.append((digest, time.monotonic() - trained))

    tracker = _tracker(job) if place.rank == 0 else None
    figures = StepFigures(model_shape(model), settings.trained, place)

    def report(step: StepReport) -> None:
        if tracker is not None:
            tracker.log(step.step, figures(step))
        on_step(step)

    result = fit(
        model,
        plan,
        source,
        settings,
        pad_token_id=source.pad_token_id,
        place=place,
        weights=None if alone else job.init,
        activation_checkpointing=train.activation_checkpointing,
        compiles=train.compile,
        feature_cache_bytes=train.feature_cache_bytes,
        checkpoints=checkpoints,
        guard=LossGuard(train),
        watch=watch,
        on_step=report,
        on_end=export,
    )
    if tracker is not None:
        tracker.close()
    if place.rank == 0:
        ((digest, export_seconds),) = exported
        metadata, losses = job.packs.read_metadata(_PLAN), thinned(result.losses)
        summary = TrainingSummary(
            num_steps=plan.num_steps,
            num_samples=plan.num_items,
            num_tokens=plan.num_tokens,
            num_supervised=plan.num_supervised,
            seconds=prepared + result.seconds + export_seconds,
            first_loss=losses[0][1],
            last_loss=losses[-1][1],
            losses=losses,
            digest=digest or "",
            real_token_share=plan.real_token_share(settings.micro_batch_size, place.world),
            num_masked=result.num_masked,
            num_truncated=int(metadata["num_truncated"]),
            num_dropped=plan.num_too_long + plan.num_empty,
            by_source=plan.by_source(),
        )
        job.state.write_text(_FINISHED, json.dumps({"work": work, "summary": asdict(summary)}))
        checkpoints.clear()
    place.barrier()


def _tracker(job: TrainingJob) -> Tracker | None:
    if job.metrics is None:
        return None
    train, run = job.config.train, f"{job.model_name}-{job.stage}"
    parameters = semantic_fields(job.settings, "") | {"num_workers": train.num_workers, "seed": job.config.seed}
    return open_tracker(train.trackers, job.metrics, run, parameters, project=train.tracking_project)
