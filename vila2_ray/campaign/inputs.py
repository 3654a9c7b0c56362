"""What a stage reads, as digests by name: with its semantic fields they make its fingerprint."""

from __future__ import annotations

from vila2_ray.campaign import plan as plans
from vila2_ray.campaign.api import Campaign
from vila2_ray.campaign.saturation import decide
from vila2_ray.campaign.specialists import beats
from vila2_ray.campaign.state import Check, read_round_scores
from vila2_ray.campaign.view import Run
from vila2_ray.errors import StageFailed
from vila2_ray.progress import NullProgress, Progress


def observe(
    campaign: Campaign, epoch: int = 0, progress: Progress | None = None, check_lease: Check = lambda: None
) -> Run:
    """A campaign as its next driver would find it: by the configuration of the last one, and what is done now."""
    config, markers = campaign.config, campaign.markers()
    best = decide(read_round_scores(markers), config.rounds).best
    return Run(config, markers, progress or NullProgress(), epoch, check_lease, best_round=best)


def stage_inputs(work: Run, plan: list[plans.Stage], stage: plans.Stage) -> dict[str, str]:
    """A stage, `corpus:<source>`, `base`, `scorer`, `votes` or `boxes` → digest.

    Raises StageFailed for a stage not done, ConfigError or CorpusError for votes that cannot count.
    """
    inputs: dict[str, str] = {}
    names = plans.inputs_of(stage, work.config, work.best_round)
    if stage.name in plans.LAST_STAGES:
        names = tuple(s.name for s in plan if s.name in work.markers and s.name not in plans.LAST_STAGES)
    for name in names:
        layer, is_retried, _ = name.rpartition("-retry-")
        remedy = "Make it with vila2 retry, or take it out of layers" if is_retried else ""
        if name not in work.markers:
            remedy = remedy or f"Run it first: vila2 run --until {name}"
            raise StageFailed(f"{stage.name} needs {name}, which is not done. {remedy}")
        if is_retried and layer in work.markers and work.markers[layer].covers != work.markers[name].covers:
            raise StageFailed(f"{stage.name} needs {name}, which lacks shards that {layer} has since got. {remedy}")
        if stage.specialist and name == f"evaluate-{stage.specialist}":  # of the scores, who is better is read
            inputs[name] = f"beats {beats(work.markers, stage.specialist)}"
        elif name != "index":  # what a stage reads of it is in its corpora's digests
            inputs[name] = work.markers[name].digest
    if stage.kind != "index":
        inputs.update({f"corpus:{source}": work.corpus(source).digest() for source in stage.corpora})
    if stage.reads_base:
        inputs["base"] = work.base_digest()
    if stage.kind == "screen":
        inputs["heldout_hashes"] = work.heldout_hashes_digest()
    if stage.reads_scorer:
        inputs["scorer"] = work.scorer_digest()
    if stage.reads_votes and (votes := work.votes(stage)) is not None:
        inputs["votes"] = votes.digest()
    if stage.reads_boxes and stage.specialist:
        inputs.update(work.boxes_digest(stage.specialist))
    return inputs


def current_fingerprint(work: Run, plan: list[plans.Stage], stage: plans.Stage) -> str | None:
    """The name that a stage's work would have now; None while what it reads is not done."""
    try:
        return plans.fingerprint(stage, work.config, stage_inputs(work, plan, stage))
    except StageFailed:
        return None
