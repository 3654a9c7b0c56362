"""A campaign's plan for the cluster whose file `cluster` names: samples by stage, then clusterplan's arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import get_args

from vila2_ray.campaign import plan as plans
from vila2_ray.campaign.clusterfile import NodeGroup
from vila2_ray.campaign.clusterplan import (
    ClusterPlan,
    Offer,
    PoolUse,
    StagePlan,
    caption_use,
    stage_plan,
    training_use,
)
from vila2_ray.campaign.estimate import cost_of, counted, latest_finished, load_of, read_architecture, stage_samples
from vila2_ray.campaign.ledger import Entry, read_ledger
from vila2_ray.campaign.paces import operations
from vila2_ray.campaign.pricelist import PriceBook
from vila2_ray.config import Config, TrainingStage
from vila2_ray.errors import ConfigError
from vila2_ray.model.architecture import Architecture
from vila2_ray.storage import Store
from vila2_ray.train.memory import GB

SMALL = ("index", "screen", "build", "filter", *plans.LAST_STAGES)
"""Kinds of stages that are not counted."""


def cluster_plan(config: Config) -> ClusterPlan:
    """Every stage on the cluster, all rounds and specialists. Raises ConfigError for what no pool can do."""
    if not config.cluster:
        raise ConfigError("cluster", "", "name the cluster's file, for example cluster/aws.yaml")
    store, book, config = Store(config.campaign), PriceBook.of(config), on_its_machines(config)
    if unknown := set(config.planning.nodes) - {group.name for group in book.groups}:
        known = ", ".join(group.name for group in book.groups)
        raise ConfigError("planning.nodes", sorted(unknown), f"{config.cluster} has the groups {known}")
    offer, counts, architecture = Offer(book, config.planning), counted(config, store), read_architecture(config)
    measured = latest_finished(read_ledger(store))
    told = [stage for stage in plans.stages(config) if stage.kind not in SMALL]
    stages = tuple(_stage(stage, config, offer, counts, architecture, measured) for stage in told)
    captions = sum(plan.samples or 0 for plan in stages if plan.stage.startswith("recaption"))
    planning = config.planning
    stored = captions * planning.bytes_per_caption
    return ClusterPlan(
        stages=stages,
        standing=offer.standing(),
        captions=captions,
        corpus_bytes=float(counts["pretrain"] or 0) * planning.bytes_per_image,
        layer_bytes=float(counts["pretrain"] or 0) * config.recaption.num_variants * planning.bytes_per_caption,
        storage_dollars_per_month=stored / GB * book.storage_dollars_per_gb_month,
        notes=_notes(config, book, stages),
    )


def on_its_machines(config: Config) -> Config:
    """With the GPU, its memory and their number a node of the pool that trains, in place of those of `planning`."""
    book, train = PriceBook.of(config), config.train
    group = Offer(book, config.planning).pool_of_gang(
        dict(train.label_selector), train.cpus_per_worker, train.gpus_per_worker
    )
    machine = book.machine(group.name) if group else None
    if group is None or machine is None or not machine.gpu:
        return config
    planning = replace(
        config.planning,
        gpu=machine.gpu,
        gpu_memory_gb=machine.gpu_memory_gb,
        gpus_per_node=max(1, int(group.gpus)),
        gpu_tflops=config.planning.gpu_tflops if machine.gpu == config.planning.gpu else 0.0,
    )
    return replace(config, planning=planning)


def _stage(
    stage: plans.Stage,
    config: Config,
    offer: Offer,
    counts: dict[str, int | None],
    architecture: Architecture | None,
    measured: Mapping[str, Entry],
) -> StagePlan:
    parameters = sum(architecture.parameters().values()) if architecture else 0
    samples, use, work = stage_samples(stage, config, counts), None, ""
    if stage.kind in get_args(TrainingStage):
        if architecture is not None and samples:
            cost, settings = cost_of(stage, config, architecture, samples), plans.settings_of(stage, config)
            use = training_use(offer, settings, config, cost, parameters, samples)
            work = operations(architecture, settings, config.train, load_of(stage, config, samples))
    elif stage.kind == "recaption":
        engine = config.recaption.engine
        use = caption_use(offer, engine, config, parameters)
        if use is not None and (rate := _measured_rate(measured, use)):
            use = caption_use(offer, engine, config, parameters, rate)
    else:  # by one actor: a caption of every held-out sample, and an answer to every benchmark's question as if it were
        # a caption; what else held-out samples are asked is not counted
        use = caption_use(offer, replace(config.recaption.engine, min_actors=1, max_actors=1), config, parameters)
    return replace(stage_plan(stage.name, samples, use, offer), operations=work)


def _measured_rate(measured: Mapping[str, Entry], use: PoolUse) -> float:
    """Captions per node and second of the last recaptioning that ran on nodes of this group; 0 where none did."""
    for entry in reversed(list(measured.values())):
        rows = [row for row in entry.nodes if row["group"] == use.group]
        node_seconds, captions = sum(row["node_seconds"] for row in rows), entry.figures.get("num_captioned", 0)
        if entry.stage.startswith("recaption") and node_seconds and captions:
            return captions / node_seconds
    return 0.0


def _notes(config: Config, book: PriceBook, stages: tuple[StagePlan, ...]) -> tuple[str, ...]:
    notes = [f"Prices are of {book.as_of}: check yours." if book.as_of else "No price list: prices.file names one."]
    if missing := [plan.stage for plan in stages if plan.use is None]:
        notes.append(
            f"{', '.join(missing)}: no pool of {config.cluster} has labels and room for it, or its model is not known."
        )
    if unpriced := [group.name for group in book.groups if not _is_priced(book, group)]:
        default = config.prices.node_dollars_per_hour
        notes.append(f"{', '.join(unpriced)}: no price known; prices.node_dollars_per_hour={default} is taken.")
    if any(group.labels for group in book.groups) and not config.train.label_selector:
        notes.append("No label selectors are set: where a stage lands is Ray's choice, and may be another pool.")
    notes.append("Not counted: index, filters, screening, report and export; requests and disks; idle time between.")
    return tuple(notes)


def _is_priced(book: PriceBook, group: NodeGroup) -> bool:
    return not (group.at_most or group.is_head) or book.price(group.name, group.market).is_listed
