"""`vila2 build-sft`: finetuning conversations for one skill, made from anybody's images; no campaign around it."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from vila2_ray.campaign.stages import connect_ray, ray_map
from vila2_ray.captions.prompts import Prompts
from vila2_ray.cli_head import use_token
from vila2_ray.cli_progress import shown_progress
from vila2_ray.cli_tables import clock, console
from vila2_ray.config import Config, SkillConfig, SkillName
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.index import build_index
from vila2_ray.experts.build import BuildJob, BuildSummary, build_conversations
from vila2_ray.experts.choice import choose_expert
from vila2_ray.storage import Store, is_remote

EXAMPLES = 3
"""Conversations that are printed."""


def build_here(skill: SkillName, images: str, to: str, given: dict[str, Any], config: Config) -> None:
    """Make the conversations that `to` lacks and say what came of it. `given` are fields of SkillConfig, over the
    recipe's. Raises ConfigError and CorpusError for mistakes, before a cluster starts.
    """
    settings = replace(config.skills.of(skill), **given)
    choose_expert(skill, settings)
    job = _job(skill, settings, images, to, config)
    if not os.environ.get("RAY_ADDRESS"):
        use_token()
    connect_ray()
    with shown_progress() as progress:
        build_index(job.corpus.shards, job.corpus.columns, job.corpus.index_store, progress, ray_map)
        summary = build_conversations(job, progress)
    _print_summary(job, summary)


def _job(skill: SkillName, settings: SkillConfig, images: str, to: str, config: Config) -> BuildJob:
    # the index lies beside the conversations and not below them: a folder of shards is searched whole
    index = Store(_index_folder(images, to))
    corpus = Corpus.open(images, "images", index, config.corpus.columns, config.corpus.max_pixels)
    prompts = Prompts(config.skills.prompt_ids(skill), config.recaption.prompts)
    return BuildJob(
        skill=skill,
        corpus=corpus,
        settings=settings,
        prompts=[prompts.text(prompt_id) for prompt_id in prompts.ids],
        questions=config.skills.questions(skill),
        seed=config.seed,
        out=Store(to),
    )


def _index_folder(images: str, to: str) -> str:
    """Remote beside remote conversations, where every node sees it; else in the user's cache."""
    name = hashlib.sha256(images.encode()).hexdigest()[:16]
    if is_remote(to):
        return f"{to.rstrip('/')}-index/{name}"
    return str(Path.home() / ".cache" / "vila2_ray" / "index" / name)


def _print_summary(job: BuildJob, summary: BuildSummary) -> None:
    table = Table("images", title=f"{job.skill} by {summary.expert}", title_justify="left")
    table.add_column("", justify="right")
    table.add_row("looked at", f"{summary.num_images:,}")
    table.add_row("with a conversation", f"{summary.num_samples:,}")
    for reason, number in summary.left_out.items():
        table.add_row(f"[dim]{reason}[/]", f"{number:,}")
    table.add_section()
    table.add_row("answers", f"{summary.num_turns:,}")
    out = console()
    out.print(table)
    for key, turns in _examples(job.out):
        out.print(f"[bold]{escape(key)}[/]")
        for turn in turns:
            text = escape(turn["value"].removeprefix("<image>\n"))
            out.print(f"  [dim]{text}[/]" if turn["from"] == "human" else f"    {text}")
    out.print(f"{clock(summary.seconds)}; train on it with corpus.sft={job.out.uri} or skills.{job.skill}.data=…")


def _examples(out: Store) -> list[tuple[str, list[dict[str, str]]]]:
    """The first conversations."""
    found: list[tuple[str, list[dict[str, str]]]] = []
    for name in out.list(suffix=".parquet"):
        rows = out.read_table(name, ["key", "conversations"]).slice(0, EXAMPLES - len(found)).to_pylist()
        found += [(row["key"], row["conversations"]) for row in rows]
        if len(found) >= EXAMPLES:
            break
    return found
