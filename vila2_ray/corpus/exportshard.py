"""One shard of an export: which samples go into it, with which text, and a count of all that was left out and why."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vila2_ray.captions.filters import training_text
from vila2_ray.captions.fuse import fuse as fuse_texts
from vila2_ray.config import FiltersConfig, FuseConfig
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.exportformats import AS, Fused
from vila2_ray.corpus.images import image_format
from vila2_ray.corpus.layers import Layer
from vila2_ray.corpus.policy import Finding, Policy
from vila2_ray.corpus.samples import Sample
from vila2_ray.corpus.screening import Screening
from vila2_ray.corpus.shards import ShardRef
from vila2_ray.corpus.verdicts import Opinions, Verdicts
from vila2_ray.errors import Reason
from vila2_ray.schema import Status
from vila2_ray.screening.rules import Flag
from vila2_ray.storage import Store

Format = Literal["webdataset", "parquet", "captions"]

_BAD_IMAGE = {reason.value for reason in Reason if reason.value.endswith("image") or reason.value.startswith("image_")}
_PROVENANCE = ("layer", "round", "specialist", "model", "checkpoint_digest")


@dataclass(frozen=True)
class ExportJob:
    """What exporting a shard needs; picklable, so that it runs anywhere."""

    corpus: Corpus
    layers: tuple[Layer, ...]
    verdicts: tuple[Verdicts | None, ...]
    fuse: FuseConfig
    filters: FiltersConfig
    to: Store
    format: Format
    screening: Screening | None = None
    policy: Policy = field(default_factory=Policy)
    language: str = "language"

    @property
    def pixels(self) -> bool:
        return self.format != "captions"

    def lists_digest(self) -> str:
        """Of takedown lists and evaluation images: where they change, shards are written again."""
        taken = self.screening.takedown_digest() if self.screening is not None else ""
        return hashlib.sha256(f"{taken} {self.policy.evaluation_digest()}".encode()).hexdigest()


@dataclass
class Counts:
    """Of one shard."""

    samples: int = 0
    exported: int = 0
    words: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    warned: Counter[str] = field(default_factory=Counter)
    """Rule of the policy → samples that are exported nevertheless."""
    captions: dict[str, Counter[str]] = field(default_factory=dict)
    licenses: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)


def export_shard(job: ExportJob, ref: ShardRef) -> dict[str, Any]:
    """Write a shard, then the file of its counts, and return those; with the written file's name, size and digest."""
    counts = Counts()
    written = AS[job.format](ref, (fused for fused, _ in _fused(job, ref, counts, images=job.pixels)))
    job.to.write_bytes(written.name, written.data)
    told = json.dumps(
        {**vars(counts), "shard": ref.shard, "lists": job.lists_digest(), "file": written.told()}, sort_keys=True
    )
    job.to.write_text(stats_name(ref), told)
    found: dict[str, Any] = json.loads(told)
    return found


def refusals(job: ExportJob, ref: ShardRef) -> list[tuple[str, str, str]]:
    """(rule, field of the policy, sample id) of every sample of a shard for which nothing may be exported."""
    found: list[tuple[str, str, str]] = []
    for fused, findings in _fused(job, ref, Counts(), images=False, is_check=True):
        found += [(one.rule, one.field, fused.sample.sample_id) for one in findings if one.action == "refuse"]
    return found


def _fused(
    job: ExportJob, ref: ShardRef, counts: Counts, images: bool, is_check: bool = False
) -> Iterator[tuple[Fused, list[Finding]]]:
    """Samples of a shard that go into the export, with what speaks against them; the others are counted by reason.

    `is_check` gives also those that the policy refuses.
    """
    captions, failed = _captions(job, ref, counts)
    screened = job.screening.flags(ref.source, ref.shard) if job.screening is not None else {}
    against = job.policy.against(ref)
    for sample in job.corpus.read(ref, images=images):
        counts.samples += 1
        if flags := screened.get(sample.row):
            counts.left_out[f"screened: {', '.join(flags)}"] += 1
            continue
        by_layer = [found.get(sample.row, []) for found in captions]
        best: list[dict[str, Any]] = next((found for found in reversed(by_layer) if found), [])
        texts = [("", training_text(caption["text"], job.filters, caption["edit"])) for caption in best]
        items = fuse_texts(sample.alt_text, texts, job.fuse.rule)
        text = "\n".join(turn.text for item in items for turn in item)
        is_whole = _is_document(sample) and job.format == "webdataset"
        silent = not text if job.pixels else not best
        reason = _unusable(sample, failed, images) or ("nothing_to_say" if silent else "")
        if reason and not is_whole:
            counts.left_out[reason] += 1
            continue
        findings = job.policy.of_licence(sample.extra.get(job.corpus.columns.license)) + against.get(sample.row, [])
        stopped = [one for one in findings if one.action == "leave_out"]
        if refused := [one for one in findings if one.action == "refuse"]:
            if is_check and not stopped:
                yield Fused(sample, text, "", []), refused
            stopped += refused
        if stopped:
            counts.left_out[f"policy: {stopped[0].rule}"] += 1
            continue
        counts.warned.update({one.rule for one in findings})
        counts.exported += 1
        counts.licenses[_stated(sample, job.corpus.columns.license)] += 1
        counts.languages[_stated(sample, job.language)] += 1
        if is_whole:
            yield Fused(sample, "", "", []), findings
            continue
        counts.words += len(text.split())
        kept = [caption for found in by_layer for caption in found]
        digest = hashlib.sha256(sample.image).hexdigest() if sample.image else _told_digest(kept)
        cited = [_cited(caption) for caption in kept]
        yield Fused(sample, text, digest, cited), findings


def _captions(
    job: ExportJob, ref: ShardRef, counts: Counts
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
        told = verdicts.opinions(ref.source, ref.shard) if verdicts else Opinions({}, {})
        failed = {}
        for row in layer.read(ref.source, ref.shard).to_pylist():
            key = (row["row"], row["variant"])
            found, edit = told.flags.get(key, []), told.edits.get(key)
            tally.update([row["status"], *(f"flag {flag}" for flag in found)])
            if row["status"] == Status.FAILED.value and row["error"] in _BAD_IMAGE:
                failed[row["row"]] = row["error"]
            if row["status"] != Status.CAPTIONED.value or found:
                continue
            tally.update(["kept"] if edit is None else ["kept", "edited"])
            columns = ("variant", "prompt_id", "text", "mean_logprob", "min_logprob", "image_sha256")
            caption = {**provenance, **{name: row[name] for name in columns}, "edit": edit}
            kept.setdefault(row["row"], []).append(caption)
    return all_kept, failed


def _cited(caption: dict[str, Any]) -> dict[str, Any]:
    """A kept caption as it is exported: of an edited one the edit, of which no model says how sure it is."""
    told = {name: value for name, value in caption.items() if name not in ("image_sha256", "edit")}
    if caption["edit"] is not None:
        told.update(text=caption["edit"], mean_logprob=None, min_logprob=None)
    return told


def _is_document(sample: Sample) -> bool:
    return sample.problem is not None and sample.problem.reason is Reason.DOCUMENT


def _unusable(sample: Sample, failed: dict[int, str], pixels: bool) -> str:
    """Why a sample cannot be exported; "" when it can. Without `pixels` its image is not looked at."""
    if sample.problem:
        return sample.problem.reason.value
    if sample.row in failed:
        return failed[sample.row]
    return "image_type" if pixels and not image_format(sample.image or b"") else ""


def _stated(sample: Sample, column: str) -> str:
    return str(sample.extra.get(column) or "not stated")


def _told_digest(captions: list[dict[str, Any]]) -> str:
    return next((caption["image_sha256"] for caption in captions if caption["image_sha256"]), "")


def stats_name(ref: ShardRef) -> str:
    """Where the counts of a shard lie."""
    return f"stats/{ref.shard}.json"


def was_taken_down(counts: Mapping[str, Any]) -> int:
    """Samples that takedown lists kept out, of one shard's counts or of all."""
    return sum(number for reason, number in counts["left_out"].items() if Flag.TAKEDOWN.value in reason)
