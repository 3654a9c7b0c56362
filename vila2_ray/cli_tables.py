"""Tables that commands print: plan, status, scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from vila2_ray.campaign.api import StageStatus
from vila2_ray.campaign.estimate import EstimateRow
from vila2_ray.campaign.spending import CaptionCosts
from vila2_ray.config import PlanningConfig
from vila2_ray.report.data import RoundScores
from vila2_ray.report.scorebook import MAIN, best_round, names_in_order, score, written
from vila2_ray.train.memory import StageCost

_STATES = {
    "done": "green",
    "running": "yellow",
    "begun": "yellow",
    "missing": "dim",
    "not needed": "dim",
    "left out": "dim",
}
_UNKNOWN = "–"


def console() -> Console:
    """For standard output; as wide as the terminal, or as COLUMNS says where there is none.

    `:cat:` in other people's text stays what it is.
    """
    return Console(highlight=False, soft_wrap=False, emoji=False)


def print_plan(rows: Sequence[EstimateRow]) -> None:
    """What each stage would take, and the sum of what is known."""
    table = Table("stage", *_right("samples", "tokens", "time", "$"), "rests on", title="plan", title_justify="left")
    for row in rows:
        table.add_row(
            row.stage, count(row.samples), count(row.tokens), clock(row.seconds), _dollars(row.dollars), row.basis
        )
    known = [row.seconds for row in rows if row.seconds is not None]
    if known:
        table.add_section()
        dollars = [row.dollars for row in rows if row.dollars is not None]
        table.add_row("sum of the known", "", "", clock(sum(known)), _dollars(sum(dollars)), "")
    console().print(table)


def print_training(costs: Mapping[str, StageCost], planning: PlanningConfig) -> None:
    """Memory of each training stage on one GPU, whether it fits, and its GPU-hours; nothing where none are known."""
    if not costs:
        return
    told = f" of {planning.gpu_memory_gb:g} GB {planning.gpu}".rstrip() if planning.gpu_memory_gb else ""
    title = f"training: GB on each{told or ' worker'}, every stage once"
    columns = _right("trained", "state", "gathered", "activations", "all", "tokens/step", "steps", "GPU-hours")
    table = Table("stage", *columns, "", title=title, title_justify="left")
    for stage, cost in costs.items():
        memory = cost.memory
        state = memory.weights + memory.gradients + memory.optimizer
        sizes = [f"{part / 1e9:.1f}" for part in (state, memory.gathered, memory.activations, memory.total)]
        hours = _UNKNOWN if cost.gpu_hours is None else f"{cost.gpu_hours:,.0f}"
        fits = {True: "[green]fits[/]", False: "[red]does not fit[/]", None: ""}[cost.fits]
        steps = f"{cost.num_steps:,}" if cost.num_steps else _UNKNOWN
        table.add_row(stage, f"{cost.trained / 1e9:.2f} B", *sizes, f"{cost.tokens_per_step:,}", steps, hours, fits)
    out = console()
    out.print(table)
    for stage, cost in costs.items():
        if cost.remedy:
            out.print(f"{stage} does not fit: {cost.remedy}", soft_wrap=True)


def print_status(uri: str, stages: Sequence[StageStatus], promoted: Mapping[str, Any] | None) -> None:
    """Each stage: done, running, begun, missing or not needed, with counts."""
    costs = _right("time", "GPU-hours", "$")
    table = Table("stage", "state", *_right("done", "of"), "", *costs, title=uri, title_justify="left")
    for stage in stages:
        state = f"[{_STATES.get(stage.state, '')}]{stage.state}[/]" if stage.state in _STATES else stage.state
        counts = ("", "", "")
        if stage.unit and (stage.done or stage.total):
            counts = f"{stage.done:,}", f"{stage.total:,}" if stage.total else "", stage.unit
        table.add_row(stage.name, state, *counts, *_cost(stage.seconds, stage.gpu_seconds, stage.dollars))
    sums = [sum(part) for part in zip(*((s.seconds, s.gpu_seconds, s.dollars) for s in stages), strict=True)]
    if any(sums):
        table.add_section()
        table.add_row("together", "", "", "", "", *_cost(*sums))
    out = console()
    out.print(table)
    if promoted:
        out.print(f"promoted: {promoted['model']}")


def _cost(seconds: float, gpu_seconds: float, dollars: float) -> tuple[str, str, str]:
    """Cells; empty where there is nothing to tell."""
    gpu_hours = f"{gpu_seconds / 3600:,.1f}" if gpu_seconds else ""
    return clock(seconds or None, ""), gpu_hours, _dollars(dollars) if dollars else ""


def print_costs(costs: CaptionCosts) -> None:
    """Dollars per 1,000 captions, written and kept, beside people's; nothing before there are captions."""
    for line in cost_lines(costs):
        console().print(line, soft_wrap=True)


def cost_lines(costs: CaptionCosts) -> list[str]:
    """Sentences with their arithmetic."""
    if not costs.num_captions or not costs.dollars:
        return []
    lines = []
    for what, dollars in (
        ("captioning alone", costs.dollars_of_passes),
        ("training and judging included", costs.dollars),
    ):
        said = f"{what}: ${_dollars(dollars)} for {costs.num_captions:,} captions, "
        said += f"${_dollars(costs.per_1000(dollars))} per 1,000"
        if costs.num_accepted:
            said += f"; ${_dollars(costs.per_1000_accepted(dollars))} per 1,000 of the {costs.num_accepted:,} kept"
        lines.append(said)
    return [*lines, f"people: ${costs.human_dollars_per_1000:g} per 1,000 (VILA²)"]


def print_scores(scores: Sequence[Mapping[str, Any]], briefly: bool = False) -> None:
    """Held-out scores, a column a round; the best of each row stands out. `briefly`: the report's main ones."""
    rounds = [RoundScores(k, f"VLM_{k}", _numbers(s)) for k, s in enumerate(scores)]
    if not rounds:
        return
    table = Table("held-out score", *_right(*(entry.model for entry in rounds)), title="scores", title_justify="left")
    names = names_in_order(rounds)
    main = [name for name in names if name in (*MAIN, "words_per_caption") or "." in name]
    for name in main if briefly and main else names:
        best = best_round(rounds, name) if len(rounds) > 1 and score(name).better != "neither" else None
        cells = [written(name, entry.values.get(name)) for entry in rounds]
        if best is not None:
            cells[best.round] = f"[bold]{cells[best.round]}[/]"
        table.add_row(score(name).label, *cells)
    console().print(table)


def count(value: int | None) -> str:
    return _UNKNOWN if value is None else f"{value:,}"


def clock(seconds: float | None, unknown: str = _UNKNOWN) -> str:
    """`9 s`, `4 min`, `2.5 h`, `3.1 days`."""
    if seconds is None:
        return unknown
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def _dollars(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:,.2f}" if value >= 0.01 else f"{value:.4f}"


def _numbers(scores: Mapping[str, Any]) -> dict[str, float]:
    return {k: float(v) for k, v in scores.items() if isinstance(v, (int, float)) and k not in ("round", "model")}


def _right(*names: str) -> list[Column]:
    return [Column(name, justify="right") for name in names]
