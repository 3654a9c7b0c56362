"""`vila2 dead` and `vila2 retry`: failed rows at the terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict

from rich.markup import escape
from rich.table import Column, Table

from vila2_ray.campaign.retry import Retried, check_reasons, choose_layer, find_layers, retry
from vila2_ray.cli_head import use_token
from vila2_ray.cli_progress import shown_progress
from vila2_ray.cli_tables import console
from vila2_ray.corpus.deadletters import DeadLetters, count_dead
from vila2_ray.storage import Store


def print_dead(campaign: str, layer: str | None, reason: str | None, as_json: bool) -> None:
    """Counts by layer and reason with examples. Raises ConfigError or CorpusError for unknown names."""
    if reason is not None:
        check_reasons([reason])
    places = find_layers(campaign)
    chosen = places if layer is None else [choose_layer(places, layer)]
    found = [dead for place in chosen for dead in count_dead(place, reason)]
    if as_json:
        print(json.dumps([asdict(dead) for dead in found], indent=1, ensure_ascii=False))
    elif found:
        console().print(_table(found, Store(campaign).uri))
    else:
        print("no dead letters" + (f" with reason {reason}" if reason else ""))


def retry_here(campaign: str, reasons: Sequence[str], layer: str | None) -> None:
    """Retry, and say what comes next."""
    from vila2_ray.campaign.stages import ray_map

    if not os.environ.get("RAY_ADDRESS"):
        use_token()
    with shown_progress() as progress:
        done = retry(campaign, reasons, layer, progress, ray_map)
    print(_said(done, reasons, is_campaign=Store(campaign).exists("campaign.yaml")))


def _said(done: Retried, reasons: Sequence[str], is_campaign: bool) -> str:
    if not done.num_samples:
        return f"{done.layer}: nothing failed for {', '.join(reasons)}"
    samples = f"{done.num_samples:,} sample{'' if done.num_samples == 1 else 's'}"
    if not done.new_layer:
        command = "vila2 run" if is_campaign else "vila2 recaption"
        return f"{done.layer}: {samples} put back; the same {command} command as before captions them again"
    layer = done.new_layer.rpartition("-retry-")[0]
    first = f"filter-{layer.removeprefix('round-')}"
    return (
        f"{done.new_layer}: {samples} captioned again, {done.num_captioned:,} captions and {done.num_failed:,} failed "
        f"rows\nlater stages read it with layers.{layer}={done.new_layer} --from {first}"
    )


def _table(found: Sequence[DeadLetters], uri: str) -> Table:
    right = [Column(name, justify="right") for name in ("rows", "samples")]
    table = Table("layer", "reason", *right, "for example", title=f"dead letters in {uri}", title_justify="left")
    for dead in found:
        examples = "\n".join(
            f"{escape(letter.sample_id)}  [dim]{escape(letter.detail[:200])}[/]" for letter in dead.examples
        )
        table.add_row(dead.layer, dead.reason, f"{dead.num_rows:,}", f"{dead.num_samples:,}", examples)
    return table
