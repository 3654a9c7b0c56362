"""A data set to train on elsewhere, or to publish: alt text and kept captions fused, images untouched.

webdataset   <shard>.tar: image bytes as they were, .txt with the fused text, .json with extra columns and all captions
parquet      <shard>.parquet: the same as columns
captions     <shard>.parquet: the captions alone, by sample and image digest, without a pixel

Flagged captions stay out. Interleaved documents go through a webdataset export as they are. Shards are written whole,
each followed by a file of its counts below stats/; the data card (README.md) comes last. An interrupted export goes on
where it stopped, and the same inputs give the same bytes.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from vila2_ray.captions.filters import training_text
from vila2_ray.captions.fuse import fuse as fuse_texts
from vila2_ray.config import FiltersConfig, FuseConfig
from vila2_ray.corpus import exportformats
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.datacard import merge_counts, render_card
from vila2_ray.corpus.exportformats import Fused
from vila2_ray.corpus.images import image_format
from vila2_ray.corpus.layers import Layer
from vila2_ray.corpus.samples import Sample
from vila2_ray.corpus.screening import Screening
from vila2_ray.corpus.shards import ShardRef
from vila2_ray.corpus.verdicts import Verdicts
from vila2_ray.errors import ConfigError, CorpusError, Reason
from vila2_ray.progress import NullProgress, Progress
from vila2_ray.schema import Status
from vila2_ray.storage import Store

Format = Literal["webdataset", "parquet", "captions"]
Run = Callable[[Callable[[ShardRef], dict[str, Any]], Sequence[ShardRef]], Iterable[dict[str, Any]]]

_SETTINGS = "export.json"
_BAD_IMAGE = {reason.value for reason in Reason if reason.value.endswith("image") or reason.value.startswith("image_")}
_PROVENANCE = ("layer", "round", "specialist", "model", "checkpoint_digest")


@dataclass(frozen=True)
class _Export:
    """What exporting a shard needs; picklable, so that it runs anywhere."""

    corpus: Corpus
    layers: tuple[Layer, ...]
    verdicts: tuple[Verdicts | None, ...]
    fuse: FuseConfig
    filters: FiltersConfig
    to: Store
    format: Format
    screening: Screening | None = None

    @property
    def takedown_digest(self) -> str:
        return self.screening.takedown_digest() if self.screening is not None else ""


@dataclass
class _Counts:
    """Of one shard, or of all."""

    samples: int = 0
    exported: int = 0
    words: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    captions: dict[str, Counter[str]] = field(default_factory=dict)
    licenses: Counter[str] = field(default_factory=Counter)


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
    run: Run | None = None,
    screening: Screening | None = None,
) -> dict[str, Any]:
    """Write the data set to `to` and return the figures of its data card.

    `layers` stand in order, the best last, with the verdicts on each (None: nothing is flagged). The fused text of a
    sample takes the captions of the last layer that has kept ones for it. `card` adds `title`, `description`, `sources`
    (list of str), `scores` (list of dict) or anything else worth saying to the card. `run` spreads shards, as for the
    index. Samples that `screening` flags stay out; where the takedown list has grown since, an export in the same
    folder is written again.

    Raises ConfigError for an unknown format, CorpusError when `to` holds something else.
    """
    if format not in get_args(Format):
        raise ConfigError("export.format", format, f"must be one of {', '.join(get_args(Format))}")
    if len(layers) != len(verdicts):
        raise ValueError(f"{len(layers)} layers and {len(verdicts)} verdicts do not go together")
    job = _Export(corpus, tuple(layers), tuple(verdicts), fuse, filters or FiltersConfig(), to, format, screening)
    _claim(job)
    progress = progress or NullProgress()
    progress.start("export", len(corpus.shards), "shards")
    counts: list[dict[str, Any]] = []
    there = set(to.list("stats"))
    missing = []
    for ref in corpus.shards:
        told = json.loads(to.read_text(_stats_name(ref))) if _stats_name(ref) in there else None
        if told is None or told.get("takedown", "") != job.takedown_digest:
            missing.append(ref)
        else:
            counts.append(told)
    progress.update(len(counts))
    for found in (run or map)(functools.partial(_export_shard, job), missing):
        counts.append(found)
        progress.update(len(counts))
    figures = {
        "format": format,
        "shards": len(corpus.shards),
        **merge_counts(counts),
        "layers": [_layer_metadata(layer) for layer in layers],
        "fuse": asdict(fuse),
        "filters": asdict(job.filters),
    }
    to.write_text("README.md", render_card(figures, {"sources": [corpus.source], **card}))
    progress.finish()
    return figures


def _claim(job: _Export) -> None:
    """Say what this folder holds, or check that it holds just that. Nothing that lies there already is overwritten."""
    settings = {
        "format": job.format,
        "corpus": job.corpus.digest(),
        "layers": [layer.digest() for layer in job.layers],
        "verdicts": [judged.digest() if judged else "" for judged in job.verdicts],
        "fuse": asdict(job.fuse),
        "filters": asdict(job.filters),
    }
    if job.screening is not None and job.screening.verdicts is not None:
        settings["screening"] = job.screening.verdicts.digest()
    settings = json.loads(json.dumps(settings))
    remedy = "Choose another folder, or delete this one first"
    if not job.to.exists(_SETTINGS):
        if taken := [name for name in job.to.list() if name.endswith((".tar", ".parquet", "README.md"))]:
            raise CorpusError(job.to.uri, f"is not an export, and holds {taken[0]}", remedy)
        job.to.write_text(_SETTINGS, json.dumps(settings, indent=1, sort_keys=True))
        return
    found = json.loads(job.to.read_text(_SETTINGS))
    if changed := [name for name in sorted({*settings, *found}) if found.get(name) != settings.get(name)]:
        raise CorpusError(job.to.uri, f"holds an export made with other {', '.join(changed)}", remedy)


def _export_shard(job: _Export, ref: ShardRef) -> dict[str, Any]:
    counts = _Counts()
    if job.format == "captions":
        exportformats.write_captions(job.to, ref, _fused(job, ref, counts))
    elif job.format == "parquet":
        exportformats.write_parquet(job.to, ref, _fused(job, ref, counts))
    else:
        exportformats.write_webdataset(job.to, ref, _fused(job, ref, counts))
    told = json.dumps({**vars(counts), "takedown": job.takedown_digest}, sort_keys=True)
    job.to.write_text(_stats_name(ref), told)
    found: dict[str, Any] = json.loads(told)
    return found


def _fused(job: _Export, ref: ShardRef, counts: _Counts) -> Iterator[Fused]:
    """The samples of a shard that go into the export; the others are counted by reason."""
    pixels = job.format != "captions"
    captions, failed = _captions(job, ref, counts)
    screened = job.screening.flags(ref.source, ref.shard) if job.screening is not None else {}
    for sample in job.corpus.read(ref, images=pixels):
        counts.samples += 1
        if flags := screened.get(sample.row):
            counts.left_out[f"screened: {', '.join(flags)}"] += 1
            continue
        if _is_document(sample) and job.format == "webdataset":
            counts.exported += 1
            yield Fused(sample, "", "", [])
            continue
        by_layer = [found.get(sample.row, []) for found in captions]
        best: list[dict[str, Any]] = next((found for found in reversed(by_layer) if found), [])
        texts = [("", training_text(caption["text"], job.filters)) for caption in best]
        items = fuse_texts(sample.alt_text, texts, job.fuse.rule)
        text = "\n".join(turn.text for item in items for turn in item)
        silent = not text if pixels else not best
        if reason := _unusable(sample, failed, pixels) or ("nothing_to_say" if silent else ""):
            counts.left_out[reason] += 1
            continue
        counts.exported += 1
        counts.words += len(text.split())
        counts.licenses[str(sample.extra.get(job.corpus.columns.license) or "not stated")] += 1
        kept = [caption for found in by_layer for caption in found]
        digest = hashlib.sha256(sample.image).hexdigest() if sample.image else _told_digest(kept)
        yield Fused(sample, text, digest, [{k: v for k, v in c.items() if k != "image_sha256"} for c in kept])


def _captions(
    job: _Export, ref: ShardRef, counts: _Counts
) -> tuple[list[dict[int, list[dict[str, Any]]]], dict[int, str]]:
    """Row → kept captions for each layer, and row → reason where the last layer could not read the image."""
    all_kept: list[dict[int, list[dict[str, Any]]]] = []
    failed: dict[int, str] = {}
    for layer, verdicts in zip(job.layers, job.verdicts, strict=True):
        kept: dict[int, list[dict[str, Any]]] = {}
        all_kept.append(kept)
        if not layer.has(ref.source, ref.shard):
            continue
        metadata = layer.metadata(ref.source, ref.shard)
        provenance = {name: metadata.get(name, "") for name in _PROVENANCE}
        tally = counts.captions.setdefault(provenance["layer"], Counter())
        flags = verdicts.flags(ref.source, ref.shard) if verdicts else {}
        failed = {}
        for row in layer.read(ref.source, ref.shard).to_pylist():
            found = flags.get((row["row"], row["variant"]), [])
            tally.update([row["status"], *(f"flag {flag}" for flag in found)])
            if row["status"] == Status.FAILED.value and row["error"] in _BAD_IMAGE:
                failed[row["row"]] = row["error"]
            if row["status"] != Status.CAPTIONED.value or found:
                continue
            tally["kept"] += 1
            columns = ("variant", "prompt_id", "text", "mean_logprob", "min_logprob", "image_sha256")
            kept.setdefault(row["row"], []).append({**provenance, **{name: row[name] for name in columns}})
    return all_kept, failed


def _is_document(sample: Sample) -> bool:
    return sample.problem is not None and sample.problem.reason is Reason.DOCUMENT


def _unusable(sample: Sample, failed: dict[int, str], pixels: bool) -> str:
    """Why a sample cannot be exported; "" when it can."""
    if sample.problem:
        return sample.problem.reason.value
    if sample.row in failed:
        return failed[sample.row]
    return "image_type" if pixels and not image_format(sample.image or b"") else ""


def _told_digest(captions: list[dict[str, Any]]) -> str:
    return next((caption["image_sha256"] for caption in captions if caption["image_sha256"]), "")


def _layer_metadata(layer: Layer) -> dict[str, str]:
    """What is constant for a layer, from its first shard."""
    shards = layer.shards()
    return layer.metadata(*shards[0]) if shards else {}


def _stats_name(ref: ShardRef) -> str:
    return f"stats/{ref.shard}.json"
