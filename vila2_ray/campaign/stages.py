"""What each kind of stage does: gather its inputs, call the room that does the work, return the digest of what came
out. Captioning and scoring have files of their own.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

from vila2_ray.campaign import plan as plans
from vila2_ray.campaign.captioning import filter_stage, recaption_layer
from vila2_ray.campaign.layout import base_folder
from vila2_ray.campaign.promotion import promote
from vila2_ray.campaign.saturation import is_kept
from vila2_ray.campaign.scoring import evaluate_model, evaluate_specialist, score_checkpoint
from vila2_ray.campaign.screening import screened_sources
from vila2_ray.campaign.specialists import final_is_needed
from vila2_ray.campaign.state import read_round_scores, scores_of
from vila2_ray.campaign.view import Done, Run, connect_ray, digest_of, ray_map
from vila2_ray.config import TrainingStage
from vila2_ray.errors import StageFailed
from vila2_ray.storage import Store, is_remote

__all__ = ["WORK", "Done", "Run", "connect_ray", "digest_of", "ray_map", "score_checkpoint"]


def _index(run: Run, stage: plans.Stage, fingerprint: str) -> Done:
    from vila2_ray.corpus.index import build_index

    started, digest, counts = time.monotonic(), hashlib.sha256(), {}
    for source in stage.corpora:
        if not run.config.corpus_uri(source):
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


def _build(run: Run, stage: plans.Stage, fingerprint: str) -> Done:
    from vila2_ray.experts.build import BuildJob, build_conversations

    connect_ray()
    (skill,), (source,), config = stage.skills, stage.corpora, run.config
    built = run.layout.conversations(skill, fingerprint)
    prompts = tuple(run.prompts.text(prompt_id) for prompt_id in config.skills.prompt_ids(skill))
    job = BuildJob(
        skill=skill,
        corpus=run.corpus(source),
        settings=config.skills.of(skill),
        prompts=prompts,
        questions=config.skills.questions(skill),
        seed=config.seed,
        out=built.shards,
        screening=run.screening(source),
    )
    summary = build_conversations(job, run.progress)
    return Done(summary.digest, asdict(summary), summary.seconds)


def _train(run: Run, stage: plans.Stage, fingerprint: str) -> Done:
    from vila2_ray.train.job import rehearsed
    from vila2_ray.train.trainer import TrainingJob, run_training

    name, model, config = stage.kind, stage.model, run.config
    if stage.is_final and final_is_needed(config, run.markers) is False:
        raise StageFailed(f"{stage.name}: no specialist beats the generalist, so there is nothing to teach it")
    connect_ray()
    layers, specialists = [], []
    if name == "pretrain" and stage.is_final:
        best = plans.best_layer(config, run.best_round)
        layers, specialists = run.layers(best) if best else [], run.specialists()
    elif name == "pretrain" and stage.round:
        layers = run.layers(stage.layer)
    rehearses = plans.rehearses(stage, config)
    names = [name for name in stage.corpora if not (rehearses and name == "pretrain")]
    sources = [run.training_source(source, layers, specialists) for source in names or [f"{stage.specialist}.data"]]
    if rehearses:
        asked, skills = run.training_source("pretrain", [], run.specialists()), config.skills
        sources = rehearsed(sources, asked, skills.rehearsal, skills.turns == "apart")
    trained = config.train.with_stage(cast(TrainingStage, name), plans.settings_of(stage, config))
    config = replace(config, train=trained)
    job = TrainingJob(
        model_name=model,
        stage=cast(TrainingStage, name),
        init_folder=_init_folder(run, stage),
        corpus=sources[0].corpus,
        layers=sources[0].layers,
        config=config,
        packs=run.layout.packs(model, name, fingerprint),
        state=run.layout.training(model, name, fingerprint),
        out=run.layout.checkpoint(model, name),
        metrics=run.layout.tracking(model, name),
        screening=sources[0].screening,
        kind=sources[0].kind,
        share=sources[0].share,
        mixture=tuple(sources[1:]),
        specialists=sources[0].specialists,
        apart=sources[0].apart,
    )
    summary = run_training(job, run.progress)
    return Done(summary.digest, asdict(summary), summary.seconds)


def _init_folder(run: Run, stage: plans.Stage) -> Store | Path:
    """What a training stage starts from; a Store reaches the workers' nodes by itself."""
    if stage.kind == "align":
        base = run.config.base.checkpoint
        return Store(base) if is_remote(base) else base_folder(run.config)
    if stage.kind == "pretrain":
        return run.layout.checkpoint("base", "align")
    return run.layout.checkpoint(plans.model_of(f"{run.best_round}") if stage.specialist else stage.model, "pretrain")


def _evaluate(run: Run, stage: plans.Stage, fingerprint: str) -> Done:
    return (evaluate_specialist if stage.specialist else evaluate_model)(run, stage, fingerprint)


def _promote(run: Run, stage: plans.Stage, fingerprint: str) -> Done:
    about, scores = best_model(run)
    marker, model = run.markers[f"sft-{about}"], plans.model_of(about)
    where = f"checkpoints/{model}/sft"
    changed = promote(run.layout.store, model, where, marker.digest, scores, run.epoch, run.check_lease)
    run.progress.note(f"promoted {model}" if changed else f"{model} stays promoted")
    return Done(marker.digest, {"model": model}, 0.0)


def best_model(run: Run) -> tuple[str, dict[str, float]]:
    """The round whose model is to be served, or `final`, and its scores."""
    k, config = run.best_round, run.config
    if f"sft-{k}" not in run.markers:
        raise StageFailed("promote: no model has been trained and scored yet. Run it to the end: vila2 run")
    history = read_round_scores(run.markers)
    final = run.markers.get("evaluate-final")
    if final is not None and final_is_needed(config, run.markers) and "sft-final" in run.markers:
        scores = scores_of(final)
        kept, reason = is_kept(scores, history, config.rounds, config.skills.max_general_loss)
        run.progress.note(reason)
        if kept:
            return "final", scores
    return f"{k}", history[k]


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
    "build": _build,
    "align": _train,
    "pretrain": _train,
    "sft": _train,
    "recaption": recaption_layer,
    "filter": filter_stage,
    "evaluate": _evaluate,
    "promote": _promote,
    "report": _report,
    "export": _export,
}
