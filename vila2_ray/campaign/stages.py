"""What each kind of stage does: gather its inputs, call the room that does the work, return the digest of what came
out.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from vila2_ray.campaign import plan as plans
from vila2_ray.campaign.layout import Layout, base_folder
from vila2_ray.campaign.promotion import promote
from vila2_ray.campaign.screening import open_screening, screened_sources
from vila2_ray.campaign.state import Marker, read_round_scores
from vila2_ray.captions.prompts import Prompts
from vila2_ray.config import Config, EngineConfig, TrainingStage
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.layers import Layer
from vila2_ray.corpus.screening import Screening, lists_digest
from vila2_ray.corpus.shardfiles import ShardFiles
from vila2_ray.corpus.verdicts import Verdicts
from vila2_ray.errors import StageFailed
from vila2_ray.evaluate.ranking import RICHEST_FIRST
from vila2_ray.progress import Progress
from vila2_ray.storage import Store, is_remote

if TYPE_CHECKING:
    from vila2_ray.train.job import TrainingSource

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Done(NamedTuple):
    """What a stage leaves for its marker."""

    digest: str
    summary: dict[str, Any]
    seconds: float


@dataclass
class Run:
    """One driver's view of one campaign; corpora and digests are looked up once."""

    config: Config
    markers: dict[str, Marker]
    progress: Progress
    epoch: int
    check_lease: Callable[[], None]
    """Raises LeaseLost when another driver has taken the campaign over."""
    best_round: int = 0
    _corpora: dict[str, Corpus] = field(default_factory=dict)
    _base_digest: str = ""

    @property
    def layout(self) -> Layout:
        return Layout(Store(self.config.campaign))

    @property
    def prompts(self) -> Prompts:
        return Prompts(self.config.recaption.prompt_ids, self.config.recaption.prompts)

    def corpus(self, source: str) -> Corpus:
        if source not in self._corpora:
            self._corpora[source] = self.layout.corpus(source, self.config)
        return self._corpora[source]

    def base_digest(self) -> str:
        from vila2_ray.model.loading import checkpoint_digest

        if not self._base_digest:
            self._base_digest = checkpoint_digest(base_folder(self.config))
        return self._base_digest

    def covered_by(self, stage: plans.Stage) -> str:
        """Digest of the corpora that a stage covers shard by shard, so that added shards do not redo the others."""
        if stage.kind == "screen":
            return " ".join(self.corpus(source).digest() for source in screened_sources(self.config))
        return self.corpus("pretrain").digest() if stage.kind == "recaption" else ""

    def heldout_hashes_digest(self) -> str:
        return lists_digest(self.config.screen.heldout_hashes)

    def screening(self, source: str) -> Screening | None:
        """What is left out of a corpus as of now; None where nothing can be."""
        return open_screening(self.layout, self.config, self.markers, self.corpus(source))

    def training_source(self, name: str, layers: list[tuple[Layer, Verdicts | None]]) -> TrainingSource:
        """A source as a stage trains on it; `layers` are of corpus.pretrain."""
        from vila2_ray.train.job import TrainingSource
        from vila2_ray.train.packplan import Share

        told = self.config.corpus.source(name)
        share = Share(told.weight, told.repeat)
        own = layers if name == "pretrain" else []
        return TrainingSource(self.corpus(name), told.kind, share, own, self.screening(name))

    def scorer_digest(self) -> str:
        from vila2_ray.model.loading import checkpoint_digest

        return checkpoint_digest(Store(self.config.pick.scorer).local_folder())

    def captions(self, layer: str) -> Layer:
        """A finished layer, or the retried one that the configuration puts in its place."""
        marker = self.markers[plans.captions_of(self.config, layer)]
        return self.layout.layer(self.config.layers.get(layer, layer), marker.fingerprint)

    def layers(self, k: int) -> list[tuple[Layer, Verdicts | None]]:
        """What a round trains on: finished layers, and what its filter stage thinks of them."""
        judged = self.markers[f"filter-{k}"].fingerprint
        names = plans.layers_judged(self.config, f"round-{k}")
        return [(self.captions(name), self.layout.verdicts(name, judged)) for name in names]


def connect_ray() -> None:
    """Join the cluster that RAY_ADDRESS names (a job's own), or start one in this process."""
    import os

    import ray

    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS") or "local"
        options: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
        ray.init(address=address, log_to_driver=False, logging_level="warning", **options)


def ray_map(function: Callable[[_Item], _Result], items: Iterable[_Item], num_cpus: float = 1.0) -> Iterable[_Result]:
    """`function` of each item on the cluster, a bounded number at a time, results as they come."""
    import ray

    if not (items := list(items)):
        return  # a finished campaign starts no cluster

    def call(item: _Item) -> _Result:  # Ray takes plain functions only, not every callable
        return function(item)

    connect_ray()
    task = ray.remote(num_cpus=num_cpus, max_retries=2)(call)
    limit = max(2, int(2 * ray.cluster_resources().get("CPU", 1)))
    running: list[Any] = []
    for item in items:
        running.append(task.remote(item))
        if len(running) >= limit:
            finished, running = ray.wait(running, num_returns=1)
            yield from ray.get(finished)
    while running:
        finished, running = ray.wait(running, num_returns=1)
        yield from ray.get(finished)


def _index(run: Run, stage: plans.Stage, fingerprint: str) -> Done:
    from vila2_ray.corpus.index import build_index

    started, digest, counts = time.monotonic(), hashlib.sha256(), {}
    for source in stage.corpora:
        if not run.config.corpus.uri(source):
            continue
        corpus = run.corpus(source)
        summary = build_index(corpus.shards, corpus.columns, corpus.index_store, run.progress, ray_map)
        digest.update(f"{source} {corpus.digest()}\n".encode())
        counts[source] = asdict(summary)
    return Done(digest.hexdigest(), counts, time.monotonic() - started)


def _screen(run: Run, stage: plans.Stage, fingerprint: str) -> Done:
    from vila2_ray.campaign.screening import screen

    started = time.monotonic()
    corpora = {source: run.corpus(source) for source in screened_sources(run.config)}
    heldout = run.corpus("heldout") if run.config.screen.heldout else None
    verdicts, work = run.layout.images(fingerprint), run.layout.screening_work(fingerprint)
    flags = screen(corpora, heldout, verdicts, run.config.screen, work, run.progress, ray_map)
    return Done(fingerprint, {"flags": flags}, time.monotonic() - started)


def _train(run: Run, stage: plans.Stage, fingerprint: str) -> Done:
    from vila2_ray.train.trainer import TrainingJob, run_training

    connect_ray()
    name, model = stage.kind, stage.model
    init: Store | Path  # a Store reaches the workers' nodes by itself
    if name == "align":
        base = run.config.base.checkpoint
        init = Store(base) if is_remote(base) else base_folder(run.config)
    elif name == "pretrain":
        init = run.layout.checkpoint("base", "align")
    else:
        init = run.layout.checkpoint(model, "pretrain")
    layers = run.layers(stage.round) if name == "pretrain" and stage.round else []
    sources = [run.training_source(source, layers) for source in stage.corpora]
    job = TrainingJob(
        model_name=model,
        stage=cast(TrainingStage, name),
        init_folder=init,
        corpus=sources[0].corpus,
        layers=sources[0].layers,
        config=run.config,
        packs=run.layout.packs(model, name, fingerprint),
        state=run.layout.training(model, name, fingerprint),
        out=run.layout.checkpoint(model, name),
        metrics=run.layout.tracking(model, name),
        screening=sources[0].screening,
        kind=sources[0].kind,
        share=sources[0].share,
        mixture=tuple(sources[1:]),
    )
    summary = run_training(job, run.progress)
    return Done(summary.digest, asdict(summary), summary.seconds)


def _recaption(run: Run, stage: plans.Stage, fingerprint: str) -> Done:
    from vila2_ray.recaption.pipeline import RecaptionJob, recaption

    connect_ray()
    captioner = stage.round - 1 if stage.round else run.best_round
    checkpoint = run.markers[f"sft-{captioner}"]
    full = stage.round is None
    latest = max((k for k in range(1, run.config.rounds.max + 1) if f"filter-{k}" in run.markers), default=0)
    job = RecaptionJob(
        corpus=run.corpus("pretrain"),
        layer=run.layout.layer(stage.layer, fingerprint),
        parts=run.layout.parts(stage.layer, fingerprint),
        checkpoint_folder=run.layout.checkpoint(f"vlm-{captioner}", "sft"),
        prompts=run.prompts,
        config=run.config.recaption,
        plan_key=f"{run.config.seed}:{stage.layer}",
        fraction=1.0 if full else run.config.rounds.fraction,
        screening=run.screening("pretrain"),
        keep=run.captions(f"round-{latest}") if full and latest else None,
        metadata={
            "layer": stage.layer,
            "round": str(stage.round if stage.round is not None else captioner + 1),
            "specialist": "",
            "model": f"vlm-{captioner}",
            "checkpoint_digest": checkpoint.digest,
        },
    )
    summary = recaption(job, run.progress)
    return Done(digest_of(job.layer, fingerprint), asdict(summary), summary.seconds)


def digest_of(files: ShardFiles, fingerprint: str) -> str:
    """Of finished shard files, from one listing: which shards there are; the fingerprint tells what is in them."""
    names = "\n".join(f"{source}/{shard}" for source, shard in files.shards())
    return hashlib.sha256(f"{fingerprint}\n{names}".encode()).hexdigest()


def _filter(run: Run, stage: plans.Stage, fingerprint: str) -> Done:
    from vila2_ray.campaign.judging import JudgeJob, judge_layers
    from vila2_ray.campaign.watching import watch

    started, config = time.monotonic(), run.config
    names = plans.layers_judged(config, stage.layer)
    before = f"round-{stage.round - 1}" if stage.round else ""
    has_before = plans.captions_of(config, before) in run.markers
    job = JudgeJob(
        corpus=run.corpus("pretrain"),
        layers=[(run.captions(name), run.layout.verdicts(name, fingerprint)) for name in names],
        prompts=run.prompts,
        filters=config.filters,
        pick=config.pick,
        previous=run.captions(before) if has_before else None,
    )
    judgement = judge_layers(job, ray_map)
    digest = digest_of(job.layers[-1][1], fingerprint)
    captions = run.markers[plans.captions_of(config, stage.layer)]
    last = run.markers.get(f"filter-{stage.round - 1}") if stage.round else None
    drift = watch(
        run.layout,
        stage,
        judgement.drift,
        last.summary.get("drift", {}) if last else {},
        captions.digest,
        config.drift,
        run.progress,
    )
    return Done(digest, {"flags": judgement.flags, "drift": drift}, time.monotonic() - started)


_NOTED = (*RICHEST_FIRST, "hallucination_rate", "words_per_caption")
"""Scores that the log tells of; the marker and the report hold all of them."""


def _evaluate(run: Run, stage: plans.Stage, fingerprint: str) -> Done:
    from dataclasses import replace

    import ray

    connect_ray()
    started = time.monotonic()
    engine, config = run.config.recaption.engine, run.config.evaluate
    source = "heldout" if run.config.corpus.heldout else "pretrain"
    if source == "pretrain":
        run.progress.note("no held-out corpus: scoring what needs none, on a share of the pretraining corpus")
        config = replace(config, max_samples=config.max_samples or 200)
    run.progress.start(stage.name, 0, "samples")
    folder = run.layout.checkpoint(stage.model, "sft").uri
    task = ray.remote(num_cpus=engine.cpus_per_actor, num_gpus=engine.gpus_per_actor, max_retries=1)(score_checkpoint)
    scores, records = ray.get(
        task.remote(run.corpus(source), folder, config, run.prompts, engine, run.config.recaption.engine_settings)
    )
    run.layout.store.write_table(run.layout.evaluation(stage.model), records)
    run.progress.finish()
    shown = ", ".join(f"{name} {scores[name]:.3f}" for name in _NOTED if name in scores)
    run.progress.note(f"{stage.model}: {shown}")
    digest = hashlib.sha256(repr(sorted(scores.items())).encode()).hexdigest()
    return Done(digest, {"scores": scores, "model": stage.model, "source": source}, time.monotonic() - started)


def score_checkpoint(
    corpus: Corpus, folder: str, config: Any, prompts: Prompts, engine: EngineConfig, settings: dict[str, Any]
) -> tuple[dict[str, float], Any]:
    """Held-out scores and per-sample records of a checkpoint folder (a URI); runs where the engine's resources are."""
    from vila2_ray.engines.choice import open_engine
    from vila2_ray.evaluate.heldout import evaluate
    from vila2_ray.progress import NullProgress

    opened = open_engine(engine, Store(folder).local_folder(), **settings)
    try:
        return evaluate(corpus, opened, config, prompts, NullProgress())
    finally:
        opened.close()


def _promote(run: Run, stage: plans.Stage, fingerprint: str) -> Done:
    k = run.best_round
    marker = run.markers.get(f"sft-{k}")
    if marker is None:
        raise StageFailed("promote: no model has been trained and scored yet. Run it to the end: vila2 run")
    scores = read_round_scores(run.markers)[k]
    where = f"checkpoints/vlm-{k}/sft"
    changed = promote(run.layout.store, f"vlm-{k}", where, marker.digest, scores, run.epoch, run.check_lease)
    run.progress.note(f"promoted vlm-{k}" if changed else f"vlm-{k} stays promoted")
    return Done(marker.digest, {"model": f"vlm-{k}"}, 0.0)


def _report(run: Run, stage: plans.Stage, fingerprint: str) -> Done:
    from vila2_ray.campaign.api import Campaign
    from vila2_ray.report import build

    started = time.monotonic()
    uri = build(Campaign(run.config.campaign))
    return Done(fingerprint, {"uri": uri}, time.monotonic() - started)


def _export(run: Run, stage: plans.Stage, fingerprint: str) -> Done:
    from vila2_ray.campaign.api import Campaign
    from vila2_ray.campaign.exporting import export_campaign

    started, settings = time.monotonic(), run.config.export
    if not run.config.rounds.max:
        return Done(fingerprint, {}, 0.0)  # no rounds, no captions
    card = export_campaign(Campaign(run.config.campaign), settings.to, settings.format, run.progress, ray_map)
    return Done(fingerprint, card, time.monotonic() - started)


WORK: dict[str, Callable[[Run, plans.Stage, str], Done]] = {
    "index": _index,
    "screen": _screen,
    "align": _train,
    "pretrain": _train,
    "sft": _train,
    "recaption": _recaption,
    "filter": _filter,
    "evaluate": _evaluate,
    "promote": _promote,
    "report": _report,
    "export": _export,
}
