"""Published benchmarks in the report: from results of all models to rows of cells with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vila2_ray.campaign import plan as plans
from vila2_ray.report import scorebook
from vila2_ray.report.data import Benchmark, BenchmarkCell, BenchmarkScores

if TYPE_CHECKING:
    from vila2_ray.campaign.api import Campaign
    from vila2_ray.evaluate.suite import Result

_PRETRAIN = "-pretrain"


def collect_benchmarks(campaign: Campaign) -> tuple[BenchmarkScores, ...]:
    """Each model with what it reaches, in the order of training; results of checkpoints that are no more are left out.

    Where models were asked different questions (other files, another number), their results say so by `data`.
    """
    markers = campaign.markers()
    by_model = campaign.benchmarks()
    order = [
        (f"{model}{_PRETRAIN}" if stage == "pretrain" else model, marker.digest)
        for marker in sorted(markers.values(), key=lambda marker: marker.finished_at)
        for model, stage in [plans.trained_by(marker.stage) or ("", "")]
        if stage in ("pretrain", "sft")
    ]
    found = []
    for model, digest in order:
        current = {name: each for name, each in by_model.get(model, {}).items() if each.checkpoint == digest}
        if current:
            found.append(BenchmarkScores(model_label(model), tuple(map(_benchmark, current.values()))))
    return tuple(found)


def model_label(name: str) -> str:
    """`vlm-2` → `VLM_2`, as the paper writes it; its pretrain-stage checkpoint is `VLM_2 pretrain`."""
    model, dash, stage = name.partition(_PRETRAIN)
    return (f"VLM_{model[4:]}" if model.startswith("vlm-") else model) + (" pretrain" if dash and not stage else "")


def benchmark_rows(models: tuple[BenchmarkScores, ...]) -> list[dict[str, Any]]:
    """A table for each benchmark: a row a score, the main one first, a cell a model."""
    names = list(dict.fromkeys(found.name for model in models for found in model.benchmarks))
    return [_table(name, models) for name in names]


def _table(name: str, models: tuple[BenchmarkScores, ...]) -> dict[str, Any]:
    of_model = [next((found for found in model.benchmarks if found.name == name), None) for model in models]
    known = [found for found in of_model if found is not None]
    main = known[0].main
    scores = [main, *sorted({score for found in known for score in found.cells} - {main})]
    rows = [_row(name, score, of_model) for score in scores]
    counts = sorted({found.num_items for found in known if found.num_items})
    told = [" and ".join(f"{count:,}" for count in counts) + " questions"] if counts else []
    if len({found.data for found in known}) > 1 or len(counts) > 1:
        told.append("not the same for all models, so columns cannot be compared")
    missing, failed = (max(getattr(found, what) for found in known) for what in ("num_missing", "num_failed"))
    told += [f"{missing:,} left out for want of a picture"] if missing else []
    told += [f"{failed:,} without an answer"] if failed else []
    return {"name": name, "kind": known[0].kind, "told": "; ".join(told), "main": rows[0], "others": rows[1:]}


def _row(name: str, score: str, of_model: list[Benchmark | None]) -> dict[str, Any]:
    full = f"{name}.{score}"
    cells = [found.cells.get(score) if found is not None else None for found in of_model]
    return {"score": scorebook.score(full), "name": full, "cells": [_cell(full, cell) for cell in cells]}


def _cell(full: str, cell: BenchmarkCell | None) -> dict[str, str]:
    if cell is None:
        return {"value": "–", "interval": ""}
    between = ""
    if cell.low is not None and cell.high is not None:
        between = f"{scorebook.written(full, cell.low)}–{scorebook.written(full, cell.high)}"
    return {"value": scorebook.written(full, cell.value), "interval": between}


def _benchmark(result: Result) -> Benchmark:
    between: Mapping[str, tuple[float | None, float | None]] = result.intervals
    return Benchmark(
        name=result.name,
        kind=result.kind,
        main=result.main,
        cells={name: BenchmarkCell(value, *between.get(name, (None, None))) for name, value in result.scores.items()},
        num_items=result.num_items,
        num_failed=result.num_failed,
        num_missing=result.num_missing,
        data=result.data,
    )
