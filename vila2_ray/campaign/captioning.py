"""The recaption and filter stages: a layer of captions by a round's captioner or a specialist, and what is thought of
it. A specialist that does not beat the generalist writes none.
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace

from vila2_ray.campaign import plan as plans
from vila2_ray.campaign.specialists import LEFT_OUT, beats
from vila2_ray.campaign.view import Done, Run, connect_ray, digest_of, ray_map
from vila2_ray.config import Config, DriftConfig, FiltersConfig


def recaption_layer(run: Run, stage: plans.Stage, fingerprint: str) -> Done:
    from vila2_ray.recaption.pipeline import RecaptionJob, recaption

    skill = stage.specialist
    if skill and not beats(run.markers, skill):
        return _left_out(run, stage, fingerprint)
    connect_ray()
    captioner = stage.round - 1 if stage.round else run.best_round
    about = skill or f"{captioner}"
    model, wording, is_full = plans.model_of(about), run.wording(stage), stage.about == "full"
    latest = run.latest_round
    job = RecaptionJob(
        corpus=run.corpus("pretrain"),
        layer=run.layout.layer(stage.layer, fingerprint),
        parts=run.layout.parts(stage.layer, fingerprint),
        checkpoint_folder=run.layout.checkpoint(model, "sft"),
        prompts=wording.prompts,
        config=wording.config,
        plan_key=wording.plan_key,
        fraction=wording.fraction,
        screening=run.screening("pretrain"),
        keep=run.captions(f"round-{latest}") if is_full and latest else None,
        metadata={
            "layer": stage.layer,
            "round": str(stage.round if stage.round is not None else captioner if skill else captioner + 1),
            "specialist": skill or "",
            "model": model,
            "checkpoint_digest": run.markers[f"sft-{about}"].digest,
        },
    )
    summary = recaption(job, run.progress)
    return Done(digest_of(job.layer, fingerprint), asdict(summary), summary.seconds)


def filter_stage(run: Run, stage: plans.Stage, fingerprint: str) -> Done:
    from vila2_ray.campaign.filtering import FilterJob, filter_layers
    from vila2_ray.campaign.skillcheck import open_check
    from vila2_ray.campaign.watching import watch

    skill, config = stage.specialist, run.config
    if skill and not beats(run.markers, skill):
        return _left_out(run, stage, fingerprint)
    started = time.monotonic()
    check = open_check(config, skill) if skill else None
    if check is not None and check.expert is None:
        run.progress.note(f"{stage.name}: {check.problem}")
    names = plans.layers_judged(config, stage.layer)
    before = f"round-{stage.round - 1}" if stage.round else ""
    has_before = bool(before) and plans.captions_of(config, before) in run.markers
    job = FilterJob(
        corpus=run.corpus("pretrain"),
        layers=[(run.captions(name), run.layout.verdicts(name, fingerprint)) for name in names],
        prompts=run.prompts,
        filters=_filters(config, skill),
        pick=replace(config.pick, by="none", scorer="") if skill else config.pick,
        previous=run.captions(before) if has_before else None,
        check=check,
        votes=run.votes(stage),
    )
    filtered = filter_layers(job, ray_map)
    captions = run.markers[plans.captions_of(config, stage.layer)]
    last = run.markers.get(f"filter-{stage.round - 1}") if stage.round else None
    drift = watch(
        run.layout,
        stage,
        filtered.drift,
        last.summary.get("drift", {}) if last else {},
        captions.digest,
        _borders(config.drift) if skill else config.drift,
        run.progress,
    )
    summary = {"flags": filtered.flags, "drift": drift}
    if check is not None:
        summary["expert"] = check.expert_name
    return Done(digest_of(job.layers[-1][1], fingerprint), summary, time.monotonic() - started)


def _left_out(run: Run, stage: plans.Stage, fingerprint: str) -> Done:
    reason = run.markers[f"evaluate-{stage.specialist}"].summary["reason"]
    run.progress.note(f"{stage.name}: left out, for {reason}")
    return Done(fingerprint, {LEFT_OUT: True, "reason": reason}, 0.0)


def _filters(config: Config, skill: str | None) -> FiltersConfig:
    """As configured for the skill. A printed word is a whole answer, and no worse for standing in the alt text."""
    filters, share = config.filters, config.skills.of(skill).drop_lowest_min_logprob_share if skill else None
    if share is not None:
        filters = replace(filters, drop_lowest_min_logprob_share=share)
    return replace(filters, min_words=1, drop_alt_text_copy=False) if skill == "ocr" else filters


def _borders(drift: DriftConfig) -> DriftConfig:
    """What a skill has to say is short, and often the same: that there is no text, that a cat is left of a dog."""
    return replace(
        drift,
        min_words_per_caption=0.0,
        max_share_starting_alike=1.0,
        max_share_identical=1.0,
        max_alt_text_similarity=1.0,
    )
