"""A data set to train on elsewhere, or to publish: alt text and kept captions fused, images untouched.

webdataset   <shard>.tar: image bytes as they were, .txt with the fused text, .json with extra columns and all captions
parquet      <shard>.parquet: the same as columns
captions     <shard>.parquet: the captions alone, by sample and image digest, without a pixel

Flagged captions stay out, and samples that the policy leaves out; what it refuses stops the export before anything is
written. Interleaved documents go through a webdataset export as they are. Shards are written whole, each followed by a
file of its counts below stats/; the data card (README.md) and croissant.json come last. An interrupted export goes on
where it stopped, and the same inputs give the same bytes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, get_args

from vila2_ray.config import FiltersConfig, FuseConfig
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.croissant import render_croissant
from vila2_ray.corpus.datacard import merge_counts, render_card
from vila2_ray.corpus.exportshard import ExportJob, Format, export_shard, refusals, stats_name, was_taken_down
from vila2_ray.corpus.layers import Layer
from vila2_ray.corpus.policy import Policy, refuse
from vila2_ray.corpus.screening import Screening
from vila2_ray.corpus.shards import Map, ShardRef
from vila2_ray.corpus.verdicts import Verdicts
from vila2_ray.errors import ConfigError, CorpusError
from vila2_ray.progress import NullProgress, Progress
from vila2_ray.storage import Store

Run = Callable[[Callable[[ShardRef], Any], Sequence[ShardRef]], Iterable[Any]]

_SETTINGS, _CARD, _CROISSANT = "export.json", "README.md", "croissant.json"
_EXAMPLES = 3
"""Samples that a refusal names."""


def export(
    corpus: Corpus,
    layers: Sequence[Layer],
    verdicts: Sequence[Verdicts | None],
    fuse: FuseConfig,
    to: Store,
    format: Format,
    card: Mapping[str, Any],
    filters: FiltersConfig | None = None,
    progress: Progress | None = None,
    run: Map | None = None,
    screening: Screening | None = None,
    policy: Policy | None = None,
    language: str = "language",
) -> dict[str, Any]:
    """Write the data set to `to` and return the figures of its data card.

    `layers` stand in order, the best last, with the verdicts on each (None: nothing is flagged). The fused text of a
    sample takes the captions of the last layer that has kept ones for it. `card` adds `title`, `description`, `sources`
    (list of str), `scores` (list of dict), `about` (of the publisher) or anything else worth saying to the card. `run`
    spreads shards, as for the index. Samples that `screening` flags stay out; where the takedown list or the evaluation
    images have grown since, an export in the same folder is written again. `policy` decides what else may be published;
    languages are counted by the extra column `language`.

    Raises ConfigError for an unknown format and for samples that the policy refuses, CorpusError when `to` holds
    something else.
    """
    if format not in get_args(Format):
        raise ConfigError("export.format", format, f"must be one of {', '.join(get_args(Format))}")
    if len(layers) != len(verdicts):
        raise ValueError(f"{len(layers)} layers and {len(verdicts)} verdicts do not go together")
    policy, progress, run = policy or Policy(), progress or NullProgress(), run or map
    job = ExportJob(
        corpus,
        tuple(layers),
        tuple(verdicts),
        fuse,
        filters or FiltersConfig(),
        to,
        format,
        screening,
        policy,
        language,
    )
    _check_claim(job)
    there, missing, earlier = _standing(job)
    if policy.can_refuse:
        _check(job, missing, progress, run)
    to.write_text(_SETTINGS, json.dumps(_settings(job), indent=1, sort_keys=True))
    if missing:
        for name in (_CARD, _CROISSANT):  # they tell of files that are about to change
            to.delete(name)
    progress.start("export", len(corpus.shards), "shards")
    progress.update(len(there))
    for told in run(functools.partial(export_shard, job), missing):
        there[told["shard"]] = told
        progress.update(len(there))
    figures = {
        "format": format,
        "shards": len(corpus.shards),
        **merge_counts(there.values()),
        "layers": [_layer_metadata(layer) for layer in layers],
        "fuse": asdict(fuse),
        "filters": asdict(job.filters),
        "policy": asdict(policy.config),
        "hooks": [hook.told for hook in policy.hooks],
        "unchecked": list(policy.unchecked),
    }
    card = {"sources": [corpus.source], **card}
    files = [{**there[ref.shard]["file"], "samples": there[ref.shard]["exported"]} for ref in corpus.shards]
    to.write_text(_CROISSANT, render_croissant(figures, files, card))
    to.write_text(_CARD, render_card(figures, card))
    progress.finish()
    _say(figures, sum(was_taken_down(there[shard]) - number for shard, number in earlier.items()), progress)
    return figures


def _settings(job: ExportJob) -> dict[str, Any]:
    """What decides the bytes of an export, apart from lists that grow."""
    settings: dict[str, Any] = {
        "format": job.format,
        "corpus": job.corpus.digest(),
        "layers": [layer.digest() for layer in job.layers],
        "verdicts": [judged.digest() if judged else "" for judged in job.verdicts],
        "fuse": asdict(job.fuse),
        "filters": asdict(job.filters),
    }
    if job.screening is not None and job.screening.verdicts is not None:
        settings["screening"] = job.screening.verdicts.digest()
    if job.policy.settings() != Policy().settings():
        settings["policy"] = job.policy.settings()
    found: dict[str, Any] = json.loads(json.dumps(settings))
    return found


def _check_claim(job: ExportJob) -> None:
    """Raises CorpusError unless the folder is empty or holds just this export: nothing else is ever overwritten."""
    remedy = "Choose another folder, or delete this one first"
    if not job.to.exists(_SETTINGS):
        if taken := [name for name in job.to.list() if name.endswith((".tar", ".parquet", _CARD, _CROISSANT))]:
            raise CorpusError(job.to.uri, f"is not an export, and holds {taken[0]}", remedy)
        return
    settings, found = _settings(job), json.loads(job.to.read_text(_SETTINGS))
    if changed := [name for name in sorted({*settings, *found}) if found.get(name) != settings.get(name)]:
        raise CorpusError(job.to.uri, f"holds an export made with other {', '.join(changed)}", remedy)


def _standing(job: ExportJob) -> tuple[dict[str, dict[str, Any]], list[ShardRef], dict[str, int]]:
    """Counts of shards that are there as they should be; shards that are not; and how many samples of those had been
    taken down when they were last written.
    """
    names, lists = set(job.to.list("stats")), job.lists_digest()
    there: dict[str, dict[str, Any]] = {}
    missing: list[ShardRef] = []
    earlier: dict[str, int] = {}
    for ref in job.corpus.shards:
        told = json.loads(job.to.read_text(stats_name(ref))) if stats_name(ref) in names else None
        if told is not None and told.get("lists") == lists and "file" in told:
            there[ref.shard] = told
            continue
        missing.append(ref)
        if told is not None:
            earlier[ref.shard] = was_taken_down(told)
    return there, missing, earlier


def _check(job: ExportJob, shards: Sequence[ShardRef], progress: Progress, run: Map) -> None:
    """Raises ConfigError where the policy refuses a sample of `shards`; nothing has been written by then."""
    progress.start("policy", len(shards), "shards")
    refused: dict[tuple[str, str], tuple[int, list[str]]] = {}
    for number, found in enumerate(run(functools.partial(refusals, job), shards), 1):
        for rule, name, sample_id in found:
            count, examples = refused.get((rule, name), (0, []))
            refused[rule, name] = count + 1, sorted([*examples, sample_id])[:_EXAMPLES]
        progress.update(number)
    progress.finish()
    refuse(refused)


def _say(figures: Mapping[str, Any], num_withdrawn: int, progress: Progress) -> None:
    """What whoever publishes it should know; the card says it as well."""
    if num_withdrawn > 0:
        progress.note(f"export: {num_withdrawn:,} taken down since it was last written, and left out now")
    for rule, count in figures["warned"].items():
        progress.note(f"export: {count:,} samples with: {rule}; they are exported, and the card says so")
    if figures["unchecked"]:
        progress.note(f"export: nothing looked for {', '.join(figures['unchecked'])}; the card says so")


def _layer_metadata(layer: Layer) -> dict[str, str]:
    """What is constant for a layer, from its first shard."""
    shards = layer.shards()
    return layer.metadata(*shards[0]) if shards else {}
