"""What a campaign will take before anything runs: samples, tokens, time and cost by stage, and what each figure rests
on.

Rates come from this campaign's own ledger where it has run the stage already, else from the recipe's stated `rates`,
else training is computed from the architecture and `planning`; where none of them knows, the row says so instead of
guessing.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import cast, get_args

from vila2_ray.campaign import plan as plans
from vila2_ray.campaign.layout import base_folder
from vila2_ray.campaign.ledger import Entry, read_ledger
from vila2_ray.campaign.specialists import LEFT_OUT
from vila2_ray.config import Config, TrainingStage
from vila2_ray.corpus.catalogue import catalogued_samples
from vila2_ray.corpus.shards import find_shards
from vila2_ray.errors import ConfigError, CorpusError, StorageError
from vila2_ray.model.architecture import Architecture
from vila2_ray.storage import Store, is_remote
from vila2_ray.train.memory import Load, StageCost, items_per_sequence, peak_tflops, stage_cost

_QUESTIONS = "evaluate.benchmarks"
"""Among counts of corpora: the questions of all benchmarks."""
IMAGE_TEXT_TOKENS = 256
"""Tokens of a caption-length training sample, image included, that a plan assumes where nothing was measured."""


@dataclass(frozen=True)
class EstimateRow:
    """One stage. None: not known."""

    stage: str
    samples: int | None
    tokens: int | None
    seconds: float | None
    dollars: float | None
    basis: str


def estimate(config: Config) -> list[EstimateRow]:
    """A row for each stage, in order, for a campaign that runs all its rounds and specialists.

    Reads shard names and one index each, and what benchmarks ask.
    """
    store = Store(config.campaign)
    measured = latest_finished(read_ledger(store))
    counts, architecture = counted(config, store), read_architecture(config)
    return [_row(stage, config, counts, measured, architecture) for stage in plans.stages(config)]


def training_costs(config: Config) -> dict[str, StageCost]:
    """Training stage → what it takes, once, of GPUs; empty where the architecture is not known."""
    if (architecture := read_architecture(config)) is None:
        return {}
    counts = counted(config, Store(config.campaign))
    trained = [stage for stage in plans.stages(config) if stage.kind in get_args(TrainingStage)]
    found = {"sft of specialists" if stage.specialist else stage.kind: stage for stage in reversed(trained)}
    order = [name for name in (*get_args(TrainingStage), "sft of specialists") if name in found]
    return {n: cost_of(found[n], config, architecture, stage_samples(found[n], config, counts)) for n in order}


def read_architecture(config: Config) -> Architecture | None:
    """Of the base weights, or as the recipe states it while there are none; None where it is no `vila`, or unknown."""
    described = dict(config.base.architecture)
    if config.base.checkpoint:
        base = config.base.checkpoint
        folder = Store(base) if is_remote(base) else Store(base_folder(config))
        described = json.loads(folder.read_text("config.json"))
    if described.get("model_type", "vila") != "vila" or not described:
        return None
    try:
        return Architecture.from_config(described)
    except ConfigError:
        if config.base.checkpoint:
            return None  # a folder that says too little, or of a family whose numbers are not known
        raise


def cost_of(stage: plans.Stage, config: Config, architecture: Architecture, samples: int | None) -> StageCost:
    load = load_of(stage, config, samples)
    return stage_cost(architecture, plans.settings_of(stage, config), config.train, config.planning, load)


def load_of(stage: plans.Stage, config: Config, samples: int | None) -> Load:
    """What a training stage's samples are on average."""
    return Load(samples or 0, _sample_tokens(stage, config), 1.0)


def _row(
    stage: plans.Stage,
    config: Config,
    counts: dict[str, int | None],
    measured: dict[str, Entry],
    architecture: Architecture | None,
) -> EstimateRow:
    samples = stage_samples(stage, config, counts)
    entry = measured.get(stage.name) or next((e for n, e in measured.items() if n.split("-")[0] == stage.kind), None)
    if entry is not None:
        old = entry.figures.get("num_samples") or entry.figures.get("num_rows") or samples
        scale = samples / old if samples and old else 1.0
        tokens = entry.figures.get("num_tokens")
        return _priced(
            stage, config, samples, int(tokens * scale) if tokens else None, entry.seconds * scale, "measured"
        )
    rate, workers = _rate(stage, config)
    if rate and samples is not None:
        tokens, basis = _tokens(stage, config, samples), config.rates.basis or "stated rate"
        if stage.kind == "evaluate" and not stage.specialist and config.evaluate.benchmarks:
            asked = counts[_QUESTIONS]
            basis += "; without benchmarks" if asked is None else f"; {asked:,} benchmark questions, each as a caption"
        return _priced(stage, config, samples, tokens, samples / (rate * workers), basis)
    if stage.kind in get_args(TrainingStage) and architecture is not None and samples is not None:
        seconds = cost_of(stage, config, architecture, samples).seconds
        if seconds is not None:
            share, peak = config.planning.utilization, peak_tflops(config.planning)
            basis = f"computed: {share:.0%} of {config.train.num_workers} × {peak:.0f} TFLOP/s"
            return _priced(stage, config, samples, _tokens(stage, config, samples), seconds, basis)
    if stage.kind in ("index", "screen", "filter", *plans.LAST_STAGES):
        return _priced(stage, config, samples, None, None, "small beside the rest")
    return _priced(stage, config, samples, _tokens(stage, config, samples), None, "unknown until measured")


def _priced(
    stage: plans.Stage, config: Config, samples: int | None, tokens: int | None, seconds: float | None, basis: str
) -> EstimateRow:
    nodes = _nodes(config) if stage.kind in get_args(TrainingStage) else 1
    dollars = None if seconds is None else seconds / 3600 * config.prices.node_dollars_per_hour * nodes
    return EstimateRow(stage.name, samples, tokens, seconds, dollars, basis)


def _nodes(config: Config) -> int:
    """Nodes that training takes; the price is a node's."""
    gpus = config.train.num_workers * config.train.gpus_per_worker
    return max(1, math.ceil(gpus / config.planning.gpus_per_node))


def stage_samples(stage: plans.Stage, config: Config, counts: dict[str, int | None]) -> int | None:
    pretrain = counts["pretrain"]
    if stage.kind in ("align", "pretrain", "sft"):
        settings = plans.settings_of(stage, config)
        seen = _trained_on(stage, config, counts)
        if seen is None:
            return None
        learns = stage.kind == "pretrain" and (stage.round or stage.is_final)
        items = 2 if learns and config.fuse.rule == "mixed" else 1
        items += len(config.specialists) if stage.is_final and learns and config.skills.turns == "apart" else 0
        wanted = int(seen * items * settings.num_epochs)
        step = settings.batch_size * items_per_sequence(settings, Load(wanted, _sample_tokens(stage, config)))
        return min(wanted, settings.max_steps * step) if settings.max_steps else wanted
    if stage.kind == "recaption":
        if pretrain is None:
            return None
        if stage.specialist:
            return pretrain
        share = config.rounds.fraction if stage.round is not None else 1 - config.rounds.fraction
        return int(pretrain * share * config.recaption.num_variants)
    if stage.kind == "build":
        return _built(stage, config, counts)
    if stage.kind == "evaluate":
        heldout = counts["heldout"]
        if heldout is None:
            return None
        return 2 * heldout if stage.specialist else heldout + (counts[_QUESTIONS] or 0)
    return pretrain if stage.kind in ("index", "screen", "filter") else None


def _built(stage: plans.Stage, config: Config, counts: dict[str, int | None]) -> int | None:
    """Images that conversations are made from: one conversation each, where there is something to learn."""
    images, most = counts.get(stage.corpora[0]), config.skills.of(stage.about).max_samples
    return images if not most or images is None else min(images, most)


def _trained_on(stage: plans.Stage, config: Config, counts: dict[str, int | None]) -> float | None:
    """Samples of an epoch: those of all sources by weight and repetition; as `planning` states where none is named."""
    if stage.specialist:
        build = next((s for s in plans.stages(config) if s.name == f"build-{stage.specialist}"), None)
        return counts.get(f"{stage.specialist}.data") if build is None else _built(build, config, counts)
    names = config.corpus.sources_of(cast(TrainingStage, stage.kind))
    if not any(config.corpus.uri(name) for name in names) and stage.kind in config.planning.samples:
        return config.planning.samples[stage.kind]
    total = 0.0
    for name in names:
        if (count := counts.get(name)) is None:
            return None
        source = config.corpus.source(name)
        total += count * source.weight * source.repeat
    if plans.rehearses(stage, config):
        if counts["pretrain"] is None:
            return None
        asked = len(config.specialists) if config.skills.turns == "apart" else 1
        total += counts["pretrain"] * config.skills.rehearsal * asked
    return total


def _sample_tokens(stage: plans.Stage, config: Config) -> int:
    """Tokens of an average training sample."""
    stated = config.planning.tokens_per_sample.get(stage.kind, IMAGE_TEXT_TOKENS)
    return min(stated, plans.settings_of(stage, config).max_length)


def _tokens(stage: plans.Stage, config: Config, samples: int | None) -> int | None:
    if samples is None or stage.kind not in ("align", "pretrain", "sft", "recaption"):
        return None
    if stage.kind != "recaption":
        return samples * _sample_tokens(stage, config)
    most = config.skills.of(stage.specialist).max_tokens if stage.specialist else config.recaption.sampling.max_tokens
    return samples * min(IMAGE_TEXT_TOKENS, most)


def _rate(stage: plans.Stage, config: Config) -> tuple[float, int]:
    rates, engine = config.rates, config.recaption.engine
    if stage.kind in ("recaption", "evaluate"):
        return rates.captions, engine.max_actors if stage.kind == "recaption" else 1
    known = {"align": rates.align_samples, "pretrain": rates.pretrain_samples, "sft": rates.sft_samples}
    return known.get(stage.kind, 0.0), config.train.num_workers


def latest_finished(entries: list[Entry]) -> dict[str, Entry]:
    return {entry.stage: entry for entry in entries if entry.finished and entry.figures.get(LEFT_OUT) is not True}


def counted(config: Config, store: Store) -> dict[str, int | None]:
    """Corpus → its samples, or as many as `planning` states where it is not named; and questions of benchmarks."""
    skills = [name for skill in config.specialists for name in config.corpora_of(skill)]
    names = dict.fromkeys(("pretrain", "sft", "heldout", *config.corpus.sources, *skills))
    corpora = {name: _count(config, store, name) or config.planning.samples.get(name) for name in names}
    return {**corpora, _QUESTIONS: _questions(config)}


def _questions(config: Config) -> int | None:
    """Of all benchmarks that are asked through the engine; None where one cannot be read from here."""
    from vila2_ray.evaluate.benchmarks import read_published

    asked = [each for each in config.evaluate.benchmarks.values() if each.kind != "command"]
    try:
        return sum(len(read_published(each).items) for each in asked)
    except (CorpusError, StorageError):
        return None


def _count(config: Config, store: Store, source: str) -> int | None:
    """Samples of a corpus: counted from its catalogue, else the first shard's count times the number of shards."""
    uri, told = config.corpus_uri(source), config.corpus_source(source)
    if not uri:
        return None
    shards = find_shards(uri, source, told.kind, told.images)
    indexed = catalogued_samples(store.sub("index"), source)
    if indexed:
        return round(sum(indexed.values()) / len(indexed) * len(shards))
    from vila2_ray.corpus.index import index_shard

    return index_shard(shards[0], config.corpus.columns).num_rows * len(shards)
