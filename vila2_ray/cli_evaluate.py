"""`vila2 evaluate` and `vila2 promote`: a checkpoint's benchmarks, and a person's word on what is served."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from vila2_ray.cli_progress import shown_progress
from vila2_ray.cli_tables import console
from vila2_ray.config import Config
from vila2_ray.engines.base import Engine
from vila2_ray.errors import ConfigError
from vila2_ray.evaluate.suite import Result, Suite, resolved
from vila2_ray.recipe import load_config
from vila2_ray.report.scorebook import written
from vila2_ray.storage import Store, absolute


def evaluate_here(checkpoint: str, overrides: list[str], recipe: str, to: str, only: list[str]) -> None:
    """Score a checkpoint folder on the configured benchmarks, in this process; print and write the results."""
    from vila2_ray.engines.choice import open_engine
    from vila2_ray.model.loading import checkpoint_digest

    config, where = _resolve(checkpoint, overrides, recipe)
    benchmarks = config.evaluate.benchmarks
    if unknown := sorted(set(only) - set(benchmarks)):
        raise ConfigError("--only", ", ".join(unknown), f"those configured are {', '.join(benchmarks) or 'none'}")
    benchmarks = {name: each for name, each in benchmarks.items() if not only or name in only}
    if not benchmarks:
        remedy = "name one: evaluate.benchmarks.pope.kind=pope evaluate.benchmarks.pope.path=/data/pope"
        raise ConfigError("evaluate.benchmarks", "", remedy)
    store = Store(to) if to else where
    if store is None:
        raise ConfigError("--to", to, "name a folder to write to: this checkpoint is in no campaign")
    settings, folder = config.recaption.engine_settings, Store(checkpoint).local_folder()
    told = json.dumps(settings, sort_keys=True, default=str)
    is_fake = config.recaption.engine.name == "fake"
    digest = str(folder) if is_fake else checkpoint_digest(folder)
    suite = Suite(resolved(benchmarks), store, digest, config.seed, told, config.judge)
    opened: list[Engine] = []

    def opener() -> Engine:
        if not opened:
            opened.append(open_engine(config.recaption.engine, Path(folder), **settings))
        return opened[0]

    with shown_progress() as progress:
        try:
            results = suite.ask(opener, progress)
        finally:
            for engine in opened:
                engine.close()
        results |= suite.run_commands(Path(folder), progress)
    print_results(results)
    print(f"results   {store.uri}")


def print_results(results: Mapping[str, Result]) -> None:
    """A row for each benchmark's main score."""
    table = Table("benchmark", "score", "value", "95 % interval", "questions", title="benchmarks", title_justify="left")
    for name, result in results.items():
        full = f"{name}.{result.main}"
        low, high = result.intervals.get(result.main, (None, None))
        between = "" if low is None else f"{written(full, low)}–{written(full, high)}"
        count = f"{result.num_items:,}" if result.num_items else ""
        table.add_row(name, result.main, written(full, result.scores.get(result.main)), between, count)
    console().print(table)


def promote_here(campaign: str, model: str) -> None:
    """Promote a model by a person's word, and say how the campaign goes on."""
    from vila2_ray.campaign.api import Campaign
    from vila2_ray.campaign.promoting import promote_by_hand

    found = Campaign(campaign)
    name, changed = promote_by_hand(found, model)
    print(f"promoted  {name}" if changed else f"{name} was promoted already")


def _resolve(checkpoint: str, overrides: list[str], recipe: str) -> tuple[Config, Store | None]:
    """The configuration, and where results belong: a campaign's own checkpoints are scored by its configuration."""
    parts = absolute(checkpoint).rsplit("/", 3)
    uri = parts[0] if len(parts) == 4 and parts[1] == "checkpoints" else ""
    if not uri or not Store(uri).exists("campaign.yaml"):
        return load_config(recipe, overrides), None
    model, stage = parts[2:]
    name = model if stage == "sft" else f"{model}-{stage}"
    where = Store(uri).sub("metrics", "benchmarks", name)
    if recipe:
        return load_config(recipe, overrides), where
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "campaign.yaml")
        file.write_text(Store(uri).read_text("campaign.yaml"), "utf-8")
        return load_config(str(file), overrides), where
