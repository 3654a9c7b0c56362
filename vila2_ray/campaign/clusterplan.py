"""What a campaign takes on a given cluster, by arithmetic that a reader can do again: nodes, time, dollars, what binds.

Each stage keeps its own pool of nodes busy, one stage after the other. Its work could go on at the pace of each of
several resources (paces.py), which work side by side; the slowest binds.

A pool's time is longer by `spot_overhead` where its machines are spot, and begins with `start_minutes`. Paid for are
the pool from its start to `idle_minutes` after its end, and head and least nodes of other pools as long as the stage
takes. Stages that are small beside these (index, filters, report) are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from vila2_ray.campaign.clusterfile import NodeGroup
from vila2_ray.campaign.paces import TFLOP, Resource, caption_rate, gradients, image_resources, number, peak
from vila2_ray.campaign.pricelist import PriceBook
from vila2_ray.config import Config, EngineConfig, PlanningConfig, StageConfig
from vila2_ray.train.memory import StageCost


@dataclass(frozen=True)
class PoolUse:
    """A pool on its own at work on one kind of stage."""

    group: str
    machine: str
    market: str
    num_nodes: int
    dollars_per_hour: float
    """Of one node."""
    resources: tuple[Resource, ...]
    """The slowest first; empty where nothing is known of its pace."""
    limit: str
    """The setting that keeps the slowest resource as small as it is."""
    problem: str = ""
    """Why it cannot run there at all."""


@dataclass(frozen=True)
class StagePlan:
    """One stage on the cluster. None: not known."""

    stage: str
    samples: int | None
    use: PoolUse | None
    work_seconds: float | None = None
    """Of the binding resource alone."""
    seconds: float | None = None
    """With start and spot machines taken."""
    dollars: float | None = None
    formula: str = ""
    """Time and dollars as sums with their numbers."""
    operations: str = ""
    """Of training: where the number of operations comes from."""


@dataclass(frozen=True)
class Standing:
    """What is paid for whatever runs: the head and the least nodes of other pools."""

    dollars_per_hour: float
    basis: str


@dataclass(frozen=True)
class ClusterPlan:
    """A whole campaign."""

    stages: tuple[StagePlan, ...]
    standing: Standing
    captions: int
    """That all recaptionings write."""
    corpus_bytes: float
    """That one pass over the pretraining corpus reads."""
    layer_bytes: float
    """Of one caption layer."""
    storage_dollars_per_month: float
    """Of all layers; the corpus is there already."""
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        return sum(stage.seconds or 0.0 for stage in self.stages)

    @property
    def dollars(self) -> float:
        return sum(stage.dollars or 0.0 for stage in self.stages)

    def dollars_of(self, kind: str) -> float:
        """Of the stages whose names begin so."""
        return sum(stage.dollars or 0.0 for stage in self.stages if stage.stage.startswith(kind))


@dataclass(frozen=True)
class Offer:
    """The cluster, priced: which pool a stage goes to, and how many of its nodes there may be."""

    book: PriceBook
    planning: PlanningConfig = field(default_factory=PlanningConfig)

    def pool(self, selector: dict[str, str], cpus: float, gpus: float) -> NodeGroup | None:
        """The workers that have the labels and room for one process: the one with fewest GPUs, then with most nodes."""
        return min(self._fitting(selector, cpus, gpus), key=lambda g: (g.gpus, -self.most(g)), default=None)

    def pool_of_gang(self, selector: dict[str, str], cpus: float, gpus: float) -> NodeGroup | None:
        """The workers that have the labels and room for one process: the one whose nodes hold most of them."""
        return max(self._fitting(selector, cpus, gpus), key=lambda group: group.holds(cpus, gpus), default=None)

    def _fitting(self, selector: dict[str, str], cpus: float, gpus: float) -> list[NodeGroup]:
        return [
            group
            for group in self.book.groups
            if not group.is_head and self.most(group) and group.holds(cpus, gpus) >= 1 and _matches(selector, group)
        ]

    def most(self, group: NodeGroup) -> int:
        return self.planning.nodes.get(group.name, group.at_most)

    def price(self, group: NodeGroup) -> float:
        return self.book.price(group.name, group.market).dollars_per_hour

    def standing(self, busy: str = "") -> Standing:
        """Head and least nodes; those of the pool `busy` are counted with its stage."""
        parts = [(group, 1 if group.is_head else group.at_least) for group in self.book.groups if group.name != busy]
        kept = [(group, number) for group, number in parts if number]
        cost = sum(number * self.price(group) for group, number in kept)
        basis = " + ".join(f"{number} {group.name} × ${self.price(group):.4g}" for group, number in kept)
        return Standing(cost, f"{basis} = ${cost:.4g} an hour")


def caption_use(
    offer: Offer, engine: EngineConfig, config: Config, parameters: int = 0, measured: float = 0.0
) -> PoolUse | None:
    """Recaptioning on its pool. `parameters` of the model, 0: not known; `measured`: captions that a node of it wrote
    per second, 0: none. None: no pool fits.
    """
    group = offer.pool(dict(engine.label_selector), engine.cpus_per_actor, engine.gpus_per_actor)
    if group is None:
        return None
    machine, per_node = offer.book.machine(group.name), group.holds(engine.cpus_per_actor, engine.gpus_per_actor)
    nodes = min(offer.most(group), math.ceil(engine.max_actors / per_node))
    actors = min(engine.max_actors, nodes * per_node)
    is_pool_full = offer.most(group) * per_node <= engine.max_actors
    rate, how = caption_rate(config, machine, offer.book)
    resources, variants = [], config.recaption.num_variants
    if measured:
        resources.append(Resource("GPUs", measured * nodes, f"{measured:.4g}/s of a node, measured × {nodes} nodes"))
    elif rate:
        resources.append(Resource("GPUs", rate * actors, f"{how} × {actors} actors"))
    images = image_resources(nodes, machine, min(group.cpus * nodes, engine.cpus_per_actor * actors), config)
    # an image is read and decoded once for all its variants
    resources += [
        Resource(one.name, one.per_second * variants, one.basis + (f" × {variants} variants" if variants > 1 else ""))
        for one in images
    ]
    problem, tensor_parallel = "", max(1, engine.tensor_parallel)
    if machine and machine.gpu_memory_gb:
        have, want = engine.gpu_memory_share * machine.gpu_memory_gb, 2 * parameters / 1e9 / tensor_parallel
        if want > have:
            problem = f"memory: weights of {want:.1f} GB do not fit into {have:.1f}; raise tensor_parallel"
    limit = f"max_workers of {group.name}={offer.most(group)}" if is_pool_full else f"max_actors={engine.max_actors}"
    return _use(offer, group, nodes, resources, limit, problem)


def training_use(
    offer: Offer, stage: StageConfig, config: Config, cost: StageCost, parameters: int, samples: int
) -> PoolUse | None:
    """A training stage on its pool; its gang is `train.num_workers`, neither more nor less. None: no pool fits."""
    train = config.train
    group = offer.pool_of_gang(dict(train.label_selector), train.cpus_per_worker, train.gpus_per_worker)
    if group is None:
        return None
    machine, per_node = offer.book.machine(group.name), group.holds(train.cpus_per_worker, train.gpus_per_worker)
    nodes, most, problem = math.ceil(train.num_workers / per_node), offer.most(group), ""
    if nodes > most:
        problem = f"train.num_workers={train.num_workers} want {nodes} nodes of {group.name}, which has {most}"
    elif cost.fits is False:
        problem = f"memory: does not fit ({cost.remedy})"
    gpus = train.num_workers * train.gpus_per_worker
    tflops = config.planning.gpu_tflops or peak(machine, config.planning) / TFLOP
    resources = []
    if tflops and gpus:
        share = config.planning.utilization
        seconds = cost.flops / (gpus * tflops * TFLOP * share)
        basis = f"{cost.flops:.4g} operations ÷ ({gpus:g} GPUs × {tflops:g} TFLOP/s × {share:g}) = {seconds:,.0f} s"
        resources.append(Resource("GPUs", samples / seconds, basis))
    workers = train.num_workers * (train.data_workers + 1)  # each rank has a reading thread of its own
    resources += image_resources(nodes, machine, min(group.cpus * nodes, workers), config)
    if machine and machine.network and nodes > 1:
        per_step = samples / max(1, cost.num_steps)
        resources.append(gradients(nodes, per_node, machine, stage, train, cost.trained, parameters, per_step))
    return _use(offer, group, nodes, resources, f"train.num_workers={train.num_workers}", problem)


def stage_plan(name: str, samples: int | None, use: PoolUse | None, offer: Offer) -> StagePlan:
    """Time and dollars of a stage by its slowest resource."""
    if use is None or use.problem or not use.resources or samples is None:
        return StagePlan(name, samples, use)
    planning, slowest = offer.planning, use.resources[0]
    work = samples / slowest.per_second
    lost = planning.spot_overhead if use.market == "spot" else 0.0
    start, idle = 60 * planning.start_minutes, 60 * planning.idle_minutes
    seconds = start + work * (1 + lost)
    standing = offer.standing(busy=use.group)
    dollars = (seconds + idle) / 3600 * use.num_nodes * use.dollars_per_hour
    dollars += seconds / 3600 * standing.dollars_per_hour
    spot = f" × {1 + lost:g} spot" if lost else ""
    formula = (
        f"{samples:,} ÷ {number(slowest.per_second)}/s{spot} + {start:g} s = {seconds / 3600:,.2f} h; "
        f"({seconds / 3600:,.2f} + {idle / 3600:.2f}) h × {use.num_nodes} × ${use.dollars_per_hour:.4g} + "
        f"{seconds / 3600:,.2f} h × ${standing.dollars_per_hour:.4g} = ${dollars:,.2f}"
    )
    return StagePlan(name, samples, use, work, seconds, dollars, formula)


def _use(
    offer: Offer, group: NodeGroup, nodes: int, resources: Sequence[Resource], limit: str, problem: str
) -> PoolUse:
    ordered = tuple(sorted(resources, key=lambda resource: resource.per_second))
    machine = offer.book.machine_name(group.name) or group.name
    return PoolUse(group.name, machine, group.market, nodes, offer.price(group), ordered, limit, problem)


def _matches(selector: dict[str, str], group: NodeGroup) -> bool:
    """Ray's label selectors; a plan takes those of single values and their negation, and groups."""
    for key, wanted in selector.items():
        names, negated = wanted.removeprefix("!"), wanted.startswith("!")
        among = names.removeprefix("in(").removesuffix(")").split(",") if names.startswith("in(") else [names]
        if (group.labels.get(key) in {name.strip() for name in among}) == negated:
            return False
    return True
