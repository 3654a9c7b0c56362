"""Finding the layers of a folder, and captioning the samples again that failed in one.

A layer that no stage marker seals yet is put back in place, and the next run captions what is missing. A sealed layer
stays as it is: a new one, `<layer>-retry-<n>`, takes over all of its rows but those that failed for the given reasons,
captions these, and is sealed by a marker of its own. Later stages read it where the configuration's `layers` says so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vila2_ray.campaign import plan as plans
from vila2_ray.campaign.api import Campaign
from vila2_ray.campaign.inputs import current_fingerprint, observe
from vila2_ray.campaign.lease import Lease
from vila2_ray.campaign.ledger import Ledger
from vila2_ray.campaign.pricelist import PriceBook
from vila2_ray.campaign.specialists import is_left_out
from vila2_ray.campaign.state import Marker, check_fields, fence_markers, write_marker
from vila2_ray.campaign.view import Run, connect_ray, digest_of
from vila2_ray.corpus.deadletters import LayerPlace, count_dead, failed_rows, put_back, write_parts
from vila2_ray.corpus.layers import Layer, Parts
from vila2_ray.corpus.shards import Map
from vila2_ray.errors import ConfigError, CorpusError, Reason, StageFailed
from vila2_ray.progress import Progress
from vila2_ray.storage import Store

_ALONE = re.compile(r"recaption-(?P<fp8>[0-9a-f]{8})\.json")
_RETRIED = re.compile(r"(?P<layer>.+)-retry-(?P<number>\d+)")


@dataclass(frozen=True)
class Retried:
    """What a retry did."""

    layer: str
    """That was looked at."""
    num_samples: int
    """That are captioned again: now in the new layer, or by the next run in this one."""
    new_layer: str = ""
    """Empty where the layer was put back in place."""
    num_captioned: int = 0
    num_failed: int = 0


def find_layers(uri: str) -> list[LayerPlace]:
    """The layers of a campaign, or of a folder that `vila2 recaption` wrote, in order of their making.

    Raises ConfigError where there is neither.
    """
    store = Store(uri)
    if not store.exists("campaign.yaml"):
        return _alone(store)
    campaign = Campaign(uri)
    work = observe(campaign)
    plan = plans.stages(work.config)
    places = []
    for stage in plan:
        if stage.kind != "recaption":
            continue
        marker = work.markers.get(stage.name)
        if marker is not None and is_left_out(marker):
            continue
        name = marker.fingerprint if marker else current_fingerprint(work, plan, stage)
        if name is not None:
            places.append(_place(work, stage.layer, name, marker is not None))
        retried = [m for m in work.markers if m.startswith(f"{stage.name}-retry-")]
        for found in sorted(retried, key=lambda m: int(m.rpartition("-")[2])):
            layer = plans.layer_sealed_by(found)
            assert layer is not None
            places.append(_place(work, layer, work.markers[found].fingerprint, True))
    return places


def choose_layer(places: Sequence[LayerPlace], name: str | None) -> LayerPlace:
    """The layer of that name; without one, the newest that has captions. Raises CorpusError when there is none."""
    known = ", ".join(place.name for place in places) or "none"
    for place in reversed(places):
        if place.name == name or (name is None and place.shards()):
            return place
    raise CorpusError(name or "layers", "no such layer here", f"Layers: {known}")


def check_reasons(reasons: Sequence[str]) -> None:
    """Raises ConfigError for a reason that no row can have."""
    known = [reason.value for reason in Reason]
    for reason in reasons:
        if reason not in known:
            raise ConfigError("--reason", reason, f"must be one of {', '.join(known)}")


def retry(
    uri: str, reasons: Sequence[str], layer: str | None = None, progress: Progress | None = None, run: Map = map
) -> Retried:
    """Caption again what failed for `reasons` in a layer (default: the newest); `run` spreads the copying of a sealed
    one.

    Holds the campaign's lease. Raises CampaignBusy, ConfigError, CorpusError, StageFailed, and what recaptioning does.
    """
    check_reasons(reasons)
    store = Store(uri)
    if not store.exists("campaign.yaml"):
        place = choose_layer(find_layers(uri), layer)
        return Retried(place.name, put_back(place, reasons))
    with Lease(store) as lease:
        if lease.took_over:
            plan = plans.stages(Campaign(uri).config)
            fence_markers(store, [stage.name for stage in plan], lease.epoch)
        place = choose_layer(find_layers(uri), layer)  # looked up under the lease: a driver may have sealed it just now
        if not place.is_sealed:
            return Retried(place.name, put_back(place, reasons))
        work = observe(Campaign(uri), lease.epoch, progress, lease.check)
        return _retry_sealed(work, place, tuple(sorted(set(reasons))), run)


def _retry_sealed(work: Run, place: LayerPlace, reasons: tuple[str, ...], run: Map) -> Retried:
    from vila2_ray.recaption.pipeline import recaption

    plan = plans.stages(work.config)
    check_fields(plan, work.config, work.markers)
    base = _base(place.name)
    stage = next(stage for stage in plan if stage.kind == "recaption" and stage.layer == base)
    marker = work.markers[plans.sealing_stage(place.name)]
    corpus = work.corpus("pretrain")
    if marker.covers != corpus.digest():
        raise StageFailed(f"{place.name}: the corpus has changed since. Run vila2 run first, then retry")
    new_name = f"{base}-retry-{1 + max(_numbers(work, base), default=0)}"
    name = plans.sealing_stage(new_name)
    inputs = {plans.sealing_stage(place.name): marker.digest, **_captioner(work, marker)}
    retrying = plans.Stage(name, f"retry {' '.join(reasons)}", stage.round, skills=stage.skills, fields=stage.fields)
    fingerprint = plans.fingerprint(retrying, work.config, inputs)
    target = _place(work, new_name, fingerprint, False)
    metadata = {"layer": new_name, "retry_of": place.name, "retried": " ".join(reasons)}
    if not any(dead.reason in reasons for dead in count_dead(place)):
        return Retried(place.name, 0)
    job = _job(work, stage, place, target, next(iter(inputs)), metadata)
    connect_ray()
    num_samples = sum(run(_CopyShard(place, target, reasons, metadata), place.layer.shards()))
    with Ledger(work.layout.store, PriceBook.of(work.config)).record(name) as figures:
        summary = recaption(job, work.progress)
        figures.update(asdict(summary))
    write_marker(
        work.layout.store,
        Marker(
            stage=name,
            fingerprint=fingerprint,
            fields=plans.fields_of(retrying, work.config),
            inputs=inputs,
            digest=digest_of(target.layer, fingerprint),
            epoch=work.epoch,
            seconds=summary.seconds,
            covers=marker.covers,
            summary=asdict(summary),
        ),
        work.check_lease,
    )
    return Retried(place.name, num_samples, new_name, summary.num_captioned, summary.num_failed)


class _CopyShard:
    """Takes a shard of a sealed layer over into another; picklable. How many of its samples are left to caption."""

    def __init__(
        self, source: LayerPlace, target: LayerPlace, reasons: tuple[str, ...], metadata: dict[str, str]
    ) -> None:
        self._source, self._target, self._reasons, self._metadata = source, target, reasons, metadata

    def __call__(self, key: tuple[str, str]) -> int:
        table = self._source.layer.read(*key)
        failed = failed_rows(table, self._reasons)
        if self._target.layer.has(*key):
            return len(failed)  # an earlier call, interrupted later, was here
        if failed:
            write_parts(self._target.parts, table, 0, 1 + max(table["row"].to_pylist()), failed)
        else:
            metadata = self._source.layer.metadata(*key)
            self._target.layer.write(*key, table, {**metadata, **self._metadata})
        return len(failed)


def _job(
    work: Run, stage: plans.Stage, place: LayerPlace, target: LayerPlace, sealed_by: str, metadata: dict[str, str]
) -> Any:
    from vila2_ray.recaption.job import RecaptionJob

    told = place.layer.metadata(*place.layer.shards()[0])
    constant = ("round", "specialist", "model", "checkpoint_digest")
    kept = {name: value for name, value in told.items() if name in constant}
    checkpoint = work.layout.checkpoint(told["model"], "sft")
    if not checkpoint.exists("config.json"):
        raise StageFailed(
            f"{sealed_by}: its captioner {checkpoint.uri} is gone. Train it again with vila2 run --from "
            f"sft-{told['model'].removeprefix('vlm-')}, or leave the dead letters"
        )
    wording = work.wording(stage)  # the same prompts and seeds as before
    return RecaptionJob(
        corpus=work.corpus("pretrain"),
        layer=target.layer,
        parts=target.parts,
        checkpoint_folder=checkpoint,
        prompts=wording.prompts,
        config=wording.config,
        plan_key=wording.plan_key,
        fraction=wording.fraction,
        metadata={**kept, **metadata},
        screening=work.screening("pretrain"),
    )


def _captioner(work: Run, marker: Marker) -> dict[str, str]:
    """The digest of the model that wrote a layer. Raises StageFailed where it has been trained anew since."""
    wrote = {name: digest for name, digest in marker.inputs.items() if name.startswith("sft-")}
    for name, digest in wrote.items():
        if name not in work.markers or work.markers[name].digest != digest:
            raise StageFailed(f"{marker.stage}: {name} has been trained anew since. Write the layer again: vila2 run")
    return wrote


def _place(work: Run, layer: str, fingerprint: str, is_sealed: bool) -> LayerPlace:
    return LayerPlace(layer, work.layout.layer(layer, fingerprint), work.layout.parts(layer, fingerprint), is_sealed)


def _alone(store: Store) -> list[LayerPlace]:
    found = [match["fp8"] for name in store.list() if (match := _ALONE.fullmatch(name))]
    if not found:
        remedy = "name a campaign, or the folder that vila2 recaption wrote to"
        raise ConfigError("campaign", store.uri, f"there is no campaign here and no recaptioned corpus; {remedy}")
    return [
        LayerPlace(
            f"recaption-{fp8}",
            Layer(store.sub("captions", "recaption", fp8)),
            Parts(store.sub("parts", "recaption", fp8)),
            is_sealed=False,
        )
        for fp8 in found
    ]


def _base(layer: str) -> str:
    """`round-1-retry-2` → `round-1`."""
    match = _RETRIED.fullmatch(layer)
    return match["layer"] if match else layer


def _numbers(work: Run, layer: str) -> list[int]:
    """Numbers of the layers that retried this one."""
    prefix = f"{plans.sealing_stage(layer)}-retry-"
    return [int(name.removeprefix(prefix)) for name in work.markers if name.startswith(prefix)]
