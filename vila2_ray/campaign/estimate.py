"""What a campaign will take before anything runs: samples, tokens, time and cost by stage, and what each figure rests
on.

Rates come from this campaign's own ledger where it has run the stage already, else from the recipe's stated `rates`;
where neither knows, the row says so instead of guessing.
"""

from __future__ import annotations

from dataclasses import dataclass

from vila2_ray.campaign import plan as plans
from vila2_ray.campaign.ledger import Entry, read_ledger
from vila2_ray.config import Config
from vila2_ray.corpus.catalogue import catalogued_samples
from vila2_ray.corpus.shards import find_shards
from vila2_ray.storage import Store

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
    """A row for each stage, in order, for a campaign that runs all its rounds. Reads shard names and one index each."""
    store = Store(config.campaign)
    measured = _latest(read_ledger(store))
    counts = {source: _count(config, store, source) for source in ("pretrain", "sft", "heldout")}
    return [_row(stage, config, counts, measured) for stage in plans.stages(config)]


def _row(stage: plans.Stage, config: Config, counts: dict[str, int | None], measured: dict[str, Entry]) -> EstimateRow:
    samples = _samples(stage, config, counts)
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
        tokens = _tokens(stage, config, samples)
        return _priced(stage, config, samples, tokens, samples / (rate * workers), config.rates.basis or "stated rate")
    if stage.kind in ("index", "screen", "filter", *plans.LAST_STAGES):
        return _priced(stage, config, samples, None, None, "small beside the rest")
    return _priced(stage, config, samples, _tokens(stage, config, samples), None, "unknown until measured")


def _priced(
    stage: plans.Stage, config: Config, samples: int | None, tokens: int | None, seconds: float | None, basis: str
) -> EstimateRow:
    dollars = None if seconds is None else seconds / 3600 * config.prices.node_dollars_per_hour
    return EstimateRow(stage.name, samples, tokens, seconds, dollars, basis)


def _samples(stage: plans.Stage, config: Config, counts: dict[str, int | None]) -> int | None:
    pretrain = counts["pretrain"]
    if stage.kind in ("align", "pretrain", "sft"):
        settings = config.train.stage(stage.kind)
        seen = counts["sft"] if stage.kind == "sft" else pretrain
        if seen is None:
            return None
        items = 2 if stage.kind == "pretrain" and stage.round and config.fuse.rule == "mixed" else 1
        wanted = int(seen * items * settings.num_epochs)
        return min(wanted, settings.max_steps * settings.batch_size) if settings.max_steps else wanted
    if stage.kind == "recaption":
        if pretrain is None:
            return None
        share = config.rounds.fraction if stage.round is not None else 1 - config.rounds.fraction
        return int(pretrain * share * config.recaption.num_variants)
    if stage.kind == "filter":
        return pretrain
    return counts["heldout"] if stage.kind == "evaluate" else (pretrain if stage.kind in ("index", "screen") else None)


def _tokens(stage: plans.Stage, config: Config, samples: int | None) -> int | None:
    if samples is None or stage.kind not in ("align", "pretrain", "sft", "recaption"):
        return None
    longest = (
        config.recaption.sampling.max_tokens if stage.kind == "recaption" else config.train.stage(stage.kind).max_length
    )
    return samples * min(IMAGE_TEXT_TOKENS, longest)


def _rate(stage: plans.Stage, config: Config) -> tuple[float, int]:
    rates, engine = config.rates, config.recaption.engine
    if stage.kind in ("recaption", "evaluate"):
        return rates.captions, engine.max_actors if stage.kind == "recaption" else 1
    known = {"align": rates.align_samples, "pretrain": rates.pretrain_samples, "sft": rates.sft_samples}
    return known.get(stage.kind, 0.0), config.train.num_workers


def _latest(entries: list[Entry]) -> dict[str, Entry]:
    return {entry.stage: entry for entry in entries if entry.finished}


def _count(config: Config, store: Store, source: str) -> int | None:
    """Samples of a corpus: counted from its catalogue, else the first shard's count times the number of shards."""
    uri = getattr(config.corpus, source)
    if not uri:
        return None
    shards = find_shards(uri, source)
    indexed = catalogued_samples(store.sub("index"), source)
    if indexed:
        return round(sum(indexed.values()) / len(indexed) * len(shards))
    from vila2_ray.corpus.index import index_shard

    return index_shard(shards[0], config.corpus.columns).num_rows * len(shards)
