"""What the benchmark of judges writes: tables to be read, and every figure as JSON."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from trials.judging import BEST, Result, Row, Writer
from trials.models import processor, spread

DETECTED = ("precision", "recall", "false_alarms", "flagged", "gain", "gain_as_long")
PICKED = ("hallucinating", "object_precision", "object_recall", "object_f1", "picked")
_KINDS = ("exist", "count", "sign", "where", "describe", "any")
PREFERRED = ("accuracy", "as_long", "decided", "answered")


def median(row: Row, score: str) -> float:
    """Over the campaigns, of those where it is known; not a number where it is nowhere."""
    known = [found[score].value for found in row.single if score in found and not math.isnan(found[score].value)]
    return statistics.median(known) if known else math.nan


def figures(result: Result) -> dict[str, float | None]:
    """Medians over the campaigns."""
    drawn, greedy = {row.name: row for row in result.drawn}, {row.name: row for row in result.greedy}
    best = drawn[BEST]
    own = "the campaign's own filters"
    found = {
        "filter_precision": median(best, "precision"),
        "filter_recall": median(best, "recall"),
        "filter_false_alarms": median(best, "false_alarms"),
        "filter_flagged": median(best, "flagged"),
        "base_rate": median(best, "base_rate"),
        "greedy_base_rate": median(greedy[own], "base_rate"),
    }
    for prefix, filtered in (("own_filters", drawn[own]), ("greedy_own_filters", greedy[own])):
        found |= {f"{prefix}_{score}": median(filtered, score) for score in ("precision", "recall")}
    for judge, rows in (("vlm", result.questions), ("other_vlm", result.others)):
        for kind, row in zip(_KINDS if rows else (), rows, strict=True):
            found |= {f"{judge}_{kind}_{score}": median(row, score) for score in (*DETECTED[:2], *DETECTED[-2:])}
    for row in result.pairs:
        found |= {f"pair_{score}: {row.name}": median(row, score) for score in ("accuracy", "as_long")}
    for row in result.picks:
        found[f"picked_hallucinating: {row.name}"] = median(row, "hallucinating")
    found |= {f"rubric: {name}": value for name, value in result.rubric.items()}
    found |= {f"flattery: {kind}": found.value for kind, found in result.flattery.items()}
    return {name: None if math.isnan(value) else round(value, 4) for name, value in found.items()}


def table(head: str, rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Cells: all campaigns together with the 95 % interval over scenes; the first column also by campaign."""
    lines = [f"| {head} | " + " | ".join(columns) + f" | {columns[0]} by campaign |", "|---" * (len(columns) + 2) + "|"]
    for row in rows:
        cells = [_cell(row, column) for column in columns]
        values = [found[columns[0]].value for found in row.single if not math.isnan(found[columns[0]].value)]
        lines.append(f"| {row.name} | " + " | ".join([*cells, spread(values) if values else "–"]) + " |")
    return "\n".join(lines)


def _cell(row: Row, column: str) -> str:
    if column not in row.pooled or math.isnan(row.pooled[column].value):
        return "–"
    value, low, high = row.pooled[column]
    return f"{value:.2f} [{low:.2f}–{high:.2f}]"


def text(result: Result, writers: Sequence[Writer]) -> str:
    """All tables as Markdown."""
    first = writers[0]
    scenes, captions = len(first.by_scene()), len(first.reported(first.drawn))
    rate, greedy = result.drawn[0].pooled["base_rate"].value, result.greedy[0].pooled["base_rate"].value
    rubric = ", ".join(f"{name} {value:g}" for name, value in result.rubric.items())
    parts = [
        f"Reported: {scenes} scenes, {captions} sampled captions of each campaign, of which {rate:.0%} hallucinate (of "
        f"the greedy ones {greedy:.0%}). Whoever flags at random has that precision and a gain of 0. Who names more is "
        "wrong more often, so a judge may do no more than count: `gain_as_long` compares captions that name as many "
        "things. Cells: all campaigns together [95 % of resamples of the scenes]; the last column: median (min–max) of "
        "the campaigns.",
        f"What tells best (recall less false alarms) on as many other scenes: `{result.best}`.",
        "## Filters, sampled captions\n\n" + _flag_table(result.drawn),
        "## Filters, greedy captions\n\n" + _flag_table(result.greedy),
        "## Pick\n\n" + table("picked by", result.picks, PICKED),
        "## VLM judge: questions about its own captions\n\n" + table(_CONTRADICTED, result.questions, DETECTED),
        "## Which of two is truer\n\nPairs of sampled captions of one scene that make up differently much; ties count "
        "half; `as_long`: accuracy on pairs that name as many things, where brevity tells nothing. Rubric: "
        f"{rubric}.\n\n" + table("prefers", result.pairs, PREFERRED),
    ]
    if result.others:
        told = "; ".join(
            f"{kind} {100 * value:+.1f} [{100 * low:+.1f} to {100 * high:+.1f}]"
            for kind, (value, low, high) in result.flattery.items()
            if not math.isnan(value)
        )
        parts.append(
            "## Teacher and pupil: questions about the other campaigns' captions\n\nBy how many points more of its own "
            "hallucinating captions a model lets pass than of others' [95 % of resamples], lenient judges and easy "
            "writers taken out: "
            f"{told}.\n\n" + table(_CONTRADICTED, result.others, DETECTED)
        )
    return "\n\n".join(parts)


_CONTRADICTED = "a caption is contradicted by"


def _flag_table(rows: Sequence[Row]) -> str:
    """What never flags is only named."""
    silent = [row.name for row in rows if not row.pooled["flagged"].value]
    shown = table("flagged by", [row for row in rows if row.name not in silent], DETECTED)
    return f"{shown}\n\nNothing is flagged by: {'; '.join(silent)}." if silent else shown


def write_report(
    to: Path | None, command: str, result: Result, writers: Sequence[Writer]
) -> tuple[str, dict[str, float | None]]:
    """Text and figures; with `to` also the dated `judges.md` and `judges.json`."""
    shown, last = text(result, writers), figures(result)
    if to is not None:
        to.mkdir(parents=True, exist_ok=True)
        made = f"`{command}` on {processor()}, {len(writers)} campaigns."
        head = f"# Judges, {date.today().isoformat()}\n\n{made}\n\n"
        (to / "judges.md").write_text(f"{head}{shown}\n\n```json\n{json.dumps(last)}\n```\n", "utf-8")
        rows = {name: [_plain(row) for row in getattr(result, name)] for name in _TABLES}
        whole = {"command": command, "figures": last, "best_setting": str(result.best), **rows}
        whole["flattery"] = {kind: [_number(value) for value in found] for kind, found in result.flattery.items()}
        (to / "judges.json").write_text(json.dumps(whole, indent=1) + "\n", "utf-8")
    return shown, last


_TABLES = ("drawn", "greedy", "picks", "questions", "pairs", "others")


def _plain(row: Row) -> dict[str, Any]:
    """`all`: score → [value, low, high]; `campaigns`: score → values."""
    return {
        "judge": row.name.strip("*"),
        "all": {name: [_number(value) for value in found] for name, found in row.pooled.items()},
        "campaigns": {name: [_number(found[name].value) for found in row.single] for name in row.pooled},
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)
