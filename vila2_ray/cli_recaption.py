"""`vila2 recaption`: a trial with its price, then the whole corpus; no campaign around it."""

from __future__ import annotations

import os
import sys

from rich.markup import escape

from vila2_ray.campaign.stages import connect_ray, ray_map
from vila2_ray.cli_head import use_token
from vila2_ray.cli_progress import shown_progress
from vila2_ray.cli_tables import clock, console
from vila2_ray.config import Config
from vila2_ray.logs import written
from vila2_ray.recaption.alone import AloneJob, Trial, recaption_alone, try_sample

SHOWN = 10
"""Captions of a trial that are printed; the others are only timed."""


def recaption_here(job: AloneJob, config: Config, sample: int, yes: bool) -> None:
    """Caption `sample` samples for a look (0: none), ask whether to go on, caption the rest.

    Where nobody can be asked, a trial is all unless `yes`.
    """
    if sample:
        trial = try_sample(job, sample, config.prices.node_dollars_per_hour)
        _print_trial(trial)
        if not trial.num_rest:
            return
        if not yes and not _agreed():
            print("nothing was written; the same command without --sample captions all", flush=True)
            return
    if not os.environ.get("RAY_ADDRESS"):
        use_token()
    with written(), shown_progress() as progress:
        connect_ray()
        layer, summary = recaption_alone(job, progress, ray_map)
    before = summary.num_rows - summary.num_samples
    if summary.num_samples:
        print(
            f"{summary.num_captioned:,} captions and {summary.num_failed:,} failed rows in {clock(summary.seconds)} "
            f"({summary.captions_per_second:,.1f}/s, {summary.engine})"
            + (f", {before:,} were there already" if before else "")
        )
    else:
        print(f"nothing to do: all {summary.num_rows:,} samples are captioned already")
    print(f"layer     {layer.store.uri}")


def _print_trial(trial: Trial) -> None:
    out = console()
    for caption in trial.captions[:SHOWN]:
        out.print(f"[bold]{escape(caption.sample.sample_id)}[/]  [dim]{escape(caption.sample.alt_text)}[/]")
        if caption.text is None:
            out.print(f"  [red]{escape(caption.error or '')}[/]")
        else:
            out.print(f"  {escape(caption.text)}  [dim]{caption.prompt_id} {caption.mean_logprob or 0.0:.2f}[/]")
    failed = sum(caption.text is None for caption in trial.captions)
    out.print(
        f"\n{len(trial.captions) - failed:,} of {len(trial.captions):,} captioned, {trial.captions_per_second:,.1f}/s "
        f"with one actor ({trial.engine}; loaded in {clock(trial.load_seconds)})"
    )
    if trial.num_rest:
        price = f"${trial.dollars_rest:,.2f}" if trial.dollars_rest >= 0.01 else "less than a cent"
        out.print(f"the other {trial.num_rest:,} would take {clock(trial.seconds_rest)} and {price} on this machine")


def _agreed() -> bool:
    if not sys.stdin.isatty():
        return False
    return input("caption them now? [y/N] ").strip().lower() in ("y", "yes")
