"""Fills a report from a campaign: captions are counted as far as that stays cheap, samples are drawn by a seed.

A campaign may be anywhere between its first stage and its last, without truth, without held-out set, its images moved
away: what is missing is left out and said in a note, never invented.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from vila2_ray import __version__
from vila2_ray.campaign.plan import captions_of
from vila2_ray.campaign.saturation import decide
from vila2_ray.campaign.watching import read_drift
from vila2_ray.config import Config
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.errors import ConfigError, Vila2Error
from vila2_ray.recipe import to_yaml
from vila2_ray.report import scorebook
from vila2_ray.report.benchmarks import collect_benchmarks, model_label
from vila2_ray.report.data import (
    FinalModel,
    LayerDrift,
    LayerFacts,
    NodeCost,
    Promotion,
    ReportData,
    RoundScores,
    Specialist,
    StageCost,
    TrainedOn,
)
from vila2_ray.report.draw import draw_samples
from vila2_ray.report.drift import drift_borders
from vila2_ray.report.judges import collect_studies
from vila2_ray.report.tally import tally_layers

if TYPE_CHECKING:
    from vila2_ray.campaign.api import Campaign


def collect(campaign: Campaign, num_samples: int = 48) -> ReportData:
    """Everything that the report shows. Raises StorageError when the campaign cannot be read."""
    config, markers = campaign.config, campaign.markers()
    notes: list[str] = []
    corpus = _corpus(campaign, config, notes)
    layers = {name: campaign.layer(name) for name in campaign.layers()}
    verdicts = {name: campaign.verdicts(name) for name in layers}
    tally = tally_layers(layers, verdicts, corpus, config.seed)
    skills = set(layers) & set(config.specialists)
    samples = draw_samples(tally, layers, verdicts, corpus, num_samples, config.seed, skills)
    metric, decision = _metric(campaign, config)
    scores = [_round(entry, metric) for entry in campaign.scores()]
    specialists = campaign.specialists()
    evaluated = markers.get("evaluate-0")
    if evaluated is not None and evaluated.summary.get("source") == "pretrain":
        notes.append("There is no held-out corpus: scores are of pretraining samples and need no truth.")
    if samples and all(sample.truth is None for sample in samples):
        notes.append("Nobody knows what is really in these pictures, so wrong objects are not marked.")
    if any(facts.num_shards_read < facts.num_shards for facts in tally.layers):
        notes.append("Counts of captions, flags and dead letters are of the shards that were read, drawn at random.")
    if tally.has_variants:
        notes.append("Layers hold several variants per sample; samples show the first, counts are of all.")
    drift = _drift(campaign, config, list(layers), notes)
    studies = collect_studies(campaign, notes)
    indexed = markers["index"].summary.get("pretrain", {}) if "index" in markers else {}
    return ReportData(
        campaign=config.campaign,
        recipe=config.recipe,
        written=time.strftime("%d %B %Y, %H:%M UTC", time.gmtime()).lstrip("0"),
        metric=metric,
        decision=decision,
        scores=tuple(scores),
        specialists=_specialists(specialists),
        final=_final(campaign, specialists),
        benchmarks=collect_benchmarks(campaign),
        studies=studies,
        layers=tuple(tally.layers),
        alt_words=tally.alt_words,
        drift=drift,
        drift_borders=drift_borders(config.drift),
        samples=samples,
        num_corpus_samples=int(indexed.get("samples", tally.num_rows)),
        stages=_stages(campaign, tally.layers),
        nodes=_nodes(campaign),
        num_accepted=campaign.caption_costs().num_accepted,
        trained_on=_trained_on(campaign),
        human_dollars_per_1000_captions=config.prices.human_dollars_per_1000_captions,
        node_dollars_per_hour=config.prices.node_dollars_per_hour,
        config_yaml=to_yaml(config),
        provenance=_provenance(campaign),
        promotions=_promotions(campaign.promoted()),
        notes=tuple(notes),
    )


def _corpus(campaign: Campaign, config: Config, notes: list[str]) -> Corpus | None:
    try:
        return campaign.corpus("pretrain")
    except Vila2Error as error:
        where = config.corpus.pretrain or "no path configured"
        notes.append(f"The pretraining shards cannot be read ({where}): samples are without images. {error}")
        return None


def _drift(campaign: Campaign, config: Config, names: list[str], notes: list[str]) -> tuple[LayerDrift, ...]:
    """Figures of the layers that have been judged; a note where one has collapsed."""
    markers, found = campaign.markers(), []
    for name in names:
        digest = markers[captions_of(config, name)].digest
        figures, collapses = read_drift(campaign.layout, name, digest)
        if figures:
            found.append(LayerDrift(name, figures, tuple(collapses)))
        if collapses:
            notes.append(f"The captions of {name} have collapsed: {'; '.join(collapses)}.")
    return tuple(found)


def _round(entry: dict[str, Any], metric: str) -> RoundScores:
    """Benchmarks have a table of their own; only the one that decides stands among held-out scores."""
    numbers = {
        name: float(value)
        for name, value in entry.items()
        if name not in ("round", "model")
        and isinstance(value, (int, float))
        and not isinstance(value, bool)
        and ("." not in name or name == metric)
    }
    return RoundScores(int(entry["round"]), model_label(str(entry["model"])), numbers)


def _specialists(specialists: list[dict[str, Any]]) -> tuple[Specialist, ...]:
    return tuple(
        Specialist(
            skill=found["skill"],
            metric=found["metric"],
            generalist=found["generalist_scores"].get(found["metric"]),
            specialist=found["scores"].get(found["metric"]),
            beats=found["beats"],
        )
        for found in specialists
    )


def _final(campaign: Campaign, beside: list[dict[str, Any]]) -> FinalModel | None:
    """The final model's main scores and those by skill, beside the model that the specialists were finetuned from."""
    final = campaign.final_scores()
    if final is None or not beside:
        return None
    before = next(scores for scores in campaign.scores() if scores["model"] == beside[0]["beside"])
    rows = [(name, before[name], final["scores"].get(name)) for name in scorebook.MAIN if name in before]
    for found in beside:
        metric, skill = found["metric"], found["skill"]
        rows.append((metric, found["generalist_scores"].get(metric), final["skills"].get(skill, {}).get(metric)))
    return FinalModel(model_label(beside[0]["beside"]), tuple(rows))


def _metric(campaign: Campaign, config: Config) -> tuple[str, str]:
    """The score that rounds went by, and the sentence about going on or not; empty where nothing was scored."""
    wanted = config.rounds.metric
    history = [dict(_round(entry, wanted).values) for entry in campaign.scores()]
    try:
        decision = decide(history, config.rounds)
    except (ConfigError, ValueError) as error:
        return config.rounds.metric if config.rounds.metric != "auto" else "", str(error)
    return decision.metric, decision.reason if history else ""


def _stages(campaign: Campaign, layers: list[LayerFacts]) -> tuple[StageCost, ...]:
    """The ledger by stage in order of first running, attempts that failed included: they cost as much."""
    captions = {}
    for facts in layers:
        share = facts.num_shards_read / facts.num_shards if facts.num_shards else 1.0
        captions[f"recaption-{facts.name.removeprefix('round-')}"] = round(facts.num_captioned / share) if share else 0
    return tuple(
        StageCost(stage, cost.seconds, cost.dollars, captions.get(stage, 0), cost.gpu_seconds)
        for stage, cost in campaign.spent().items()
    )


def _nodes(campaign: Campaign) -> tuple[NodeCost, ...]:
    """The ledger's node seconds by kind of node and price, dearest first."""
    seconds: Counter[tuple[str, str, str, float]] = Counter()
    for row in (row for entry in campaign.ledger() for row in entry.nodes):
        seconds[row["group"], row["machine"], row["market"].replace("_", " "), row["dollars_per_hour"]] += row[
            "node_seconds"
        ]
    found = [NodeCost(*kind[:3], spent, kind[3], spent / 3600 * kind[3]) for kind, spent in seconds.items()]
    return tuple(sorted(found, key=lambda node: -node.dollars))


def _trained_on(campaign: Campaign) -> tuple[TrainedOn, ...]:
    """Counts by source of every finished training stage, in order of finishing."""
    made = sorted(campaign.markers().values(), key=lambda marker: marker.finished_at)
    return tuple(
        TrainedOn(m.stage, source, found["items"], found["tokens"], found["supervised"], found["images"])
        for m in made
        for source, found in m.summary.get("by_source", {}).items()
    )


def _provenance(campaign: Campaign) -> tuple[tuple[str, str], ...]:
    markers = campaign.markers()
    facts = [("vila2_ray", __version__), ("campaign", campaign.uri)]
    inputs = {name: digest for marker in markers.values() for name, digest in marker.inputs.items() if ":" in name}
    base = next((marker.inputs["base"] for marker in markers.values() if "base" in marker.inputs), "")
    facts += [(name.replace(":", " ") + " (SHA-256)", digest) for name, digest in sorted(inputs.items())]
    facts += [("base weights", base)] if base else []
    made = sorted(markers.values(), key=lambda marker: marker.finished_at)
    facts += [(f"{marker.stage}: output", marker.digest) for marker in made if marker.digest]
    return tuple(facts)


def _promotions(promoted: dict[str, Any]) -> tuple[Promotion, ...]:
    current = promoted.get("current")
    entries = []
    for position, entry in enumerate(promoted.get("history", [])):
        is_last = position == len(promoted["history"]) - 1
        when = entry.get("promoted_at")
        entries.append(
            Promotion(
                model=model_label(str(entry.get("model", ""))),
                when=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(when)) if when else "",
                checkpoint=str(entry.get("checkpoint", "")),
                digest=str(entry.get("digest", "")),
                is_current=is_last and current is not None,
            )
        )
    return tuple(entries)
