"""A person promotes: the model that the scores speak for, or another. The next driver takes the stage as done."""

from __future__ import annotations

from vila2_ray.campaign import plan as plans
from vila2_ray.campaign.api import Campaign
from vila2_ray.campaign.inputs import observe, stage_inputs
from vila2_ray.campaign.lease import Lease
from vila2_ray.campaign.promotion import fence_promotion, promote, read_promoted
from vila2_ray.campaign.serving import Target, find_target, trained
from vila2_ray.campaign.stages import best_model
from vila2_ray.campaign.state import Marker, fence_markers, scores_of, write_marker
from vila2_ray.campaign.view import Run


def promote_by_hand(campaign: Campaign, model: str = "") -> tuple[str, bool]:
    """Promote `model` (`vlm-1`, `vlm-1@0123ab`; "": the best one). Its name, and whether it was another before.

    The campaign goes on after its promotion as soon as somebody runs it; what is trained or scored later is asked about
    anew. Raises CampaignBusy while a driver runs, StageFailed where nothing is trained and scored, ConfigError for a
    model that the campaign does not have.
    """
    store = campaign.store
    with Lease(store) as lease:
        work = observe(campaign, lease.epoch, check_lease=lease.check)
        plan = plans.stages(work.config)
        if lease.took_over:
            fence_markers(store, [stage.name for stage in plan], lease.epoch)
            fence_promotion(store, lease.epoch)
        best, _ = best_model(work)
        target = _target(work, model) if model else trained(work.markers[f"sft-{best}"])
        scores = _scores(work, target)
        changed = promote(store, target.model, target.checkpoint, target.digest, scores, lease.epoch, lease.check)
        stage = next(stage for stage in plan if stage.name == "promote")
        inputs = stage_inputs(work, plan, stage)
        marker = Marker(
            stage=stage.name,
            fingerprint=plans.fingerprint(stage, work.config, inputs),
            fields=plans.fields_of(stage, work.config),
            inputs=inputs,
            digest=target.digest,
            epoch=lease.epoch,
            summary={"model": target.model, "by": "a person", "best": plans.model_of(best)},
        )
        write_marker(store, marker, lease.check)
        return target.model, changed


def _target(work: Run, model: str) -> Target:
    return find_target(model, read_promoted(work.layout.store), work.markers)


def _scores(work: Run, target: Target) -> dict[str, float]:
    """Of the checkpoint as it is now; none of one that was trained before and is no more."""
    about = target.skill or target.model.removeprefix("vlm-")
    now, marker = work.markers.get(f"sft-{about}"), work.markers.get(f"evaluate-{about}")
    is_now = now is not None and now.digest == target.digest
    return scores_of(marker) if marker is not None and is_now else {}
