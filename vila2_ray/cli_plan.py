"""The plan for a cluster, printed so that a reader can add it up again."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Column, Table

from vila2_ray.campaign.clusterplan import ClusterPlan, StagePlan
from vila2_ray.campaign.paces import Resource, number
from vila2_ray.cli_tables import clock, console, count
from vila2_ray.config import Config
from vila2_ray.train.memory import GB

_UNKNOWN = "–"


def print_cluster_plan(plan: ClusterPlan, config: Config) -> None:
    """A row a stage, the sum, then how each kind of stage is reckoned."""
    samples, num_nodes, time, dollars = (Column(n, justify="right") for n in ("samples", "nodes", "time", "$"))
    table = Table("stage", samples, num_nodes, "of", time, dollars, "binds", title=config.cluster, title_justify="left")
    for stage in plan.stages:
        use = stage.use
        nodes, machine = (f"{use.num_nodes}", f"{use.machine} {use.market.replace('_', ' ')}") if use else ("", "")
        cost = _UNKNOWN if stage.dollars is None else f"{stage.dollars:,.0f}"
        table.add_row(stage.stage, count(stage.samples), nodes, machine, clock(stage.seconds), cost, _binds(stage))
    table.add_section()
    table.add_row("sum of the known", "", "", "", clock(plan.seconds), f"{plan.dollars:,.0f}", "")
    out = console()
    out.print(table)
    shown: set[str] = set()
    for stage in plan.stages:
        kind = stage.stage.split("-")[0]
        if stage.use is not None and kind not in shown:
            shown.add(kind)
            for line in how(stage):
                out.print(escape(line), soft_wrap=True)
    out.print(f"standing: {plan.standing.basis}", soft_wrap=True)
    for line in (*costs(plan, config), *sizes(plan), *plan.notes):
        out.print(escape(line), soft_wrap=True)


def how(stage: StagePlan) -> list[str]:
    """A stage's arithmetic: its resources, the slowest first, then time and dollars."""
    use = stage.use
    assert use is not None
    lines = [f"{stage.stage}: {use.problem}"] if use.problem else []
    lines += [f"{stage.stage}: {stage.operations}"] if stage.operations else []
    lines += [f"{stage.stage}: {_pace(resource)}" for resource in use.resources]
    return lines + ([f"{stage.stage}: {stage.formula}"] if stage.formula else [])


def costs(plan: ClusterPlan, config: Config) -> list[str]:
    """Dollars per 1,000 captions, beside those of people."""
    if not plan.captions:
        return []
    people, thousands = config.prices.human_dollars_per_1000_captions, plan.captions / 1000
    passes = plan.dollars_of("recaption")
    if not passes:
        return []
    alone, together = passes / thousands, plan.dollars / thousands
    return [
        f"captions: {plan.captions:,}; their passes alone ${passes:,.2f} ÷ {thousands:,.0f} = ${alone:.4f} per 1,000, "
        f"all training included ${together:.4f}; people: ${people:g} per 1,000 (VILA²)"
    ]


def sizes(plan: ClusterPlan) -> list[str]:
    """Bytes that are read and kept."""
    if not plan.corpus_bytes:
        return []
    read, layer = plan.corpus_bytes / 1000 / GB, plan.layer_bytes / GB
    stored = f"{layer:,.0f} GB of captions a layer, ${plan.storage_dollars_per_month:,.2f} a month for all"
    return [f"bytes: {read:,.1f} TB read by a pass over the corpus; {stored}; egress within the region: none"]


def _binds(stage: StagePlan) -> str:
    use = stage.use
    if use is None:
        return "no pool fits"
    if use.problem:
        return use.problem
    if not use.resources:
        return "its pace is not known"
    slowest = use.resources[0]
    return f"{slowest.name}: {number(slowest.per_second)}/s, {use.limit}"


def _pace(resource: Resource) -> str:
    return f"{resource.name} {number(resource.per_second)}/s: {resource.basis}"
