"""Recaptioning without a campaign: any corpus, any vision-language checkpoint, captions to any folder.

    <to>/index/                          where samples lie in their shards
    <to>/captions/recaption/<fp8>/       the layer; fp8 names checkpoint and settings, so others can be put beside it
    <to>/parts/recaption/<fp8>/          finished row ranges of shards not yet whole
    <to>/recaption-<fp8>.json            what was asked for, resolved

The same call goes on where it was interrupted, and captions only the shards that were added since.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from vila2_ray.captions.prompts import Prompts
from vila2_ray.config import ColumnsConfig, RecaptionConfig, semantic_fields
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.index import Run, build_index
from vila2_ray.corpus.layers import Layer, Parts
from vila2_ray.corpus.samples import Sample
from vila2_ray.progress import Progress
from vila2_ray.recaption.job import RecaptionJob, RecaptionSummary
from vila2_ray.recaption.rows import Row, caption
from vila2_ray.schema import FORMAT_VERSION, Status
from vila2_ray.storage import Store

SOURCE = "corpus"
"""Name of the one source, in rows and paths."""


@dataclass(frozen=True)
class AloneJob:
    """What to caption with what, and where to."""

    checkpoint: str
    """A Hugging Face folder that `AutoModelForImageTextToText` loads; a local path or any pyarrow.fs URI."""
    corpus: str
    """Shards (tar, Parquet) or a folder of pictures; a folder, glob or file."""
    to: str
    config: RecaptionConfig = field(default_factory=RecaptionConfig)
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    max_pixels: int = 64_000_000
    seed: int = 0

    def open_corpus(self) -> Corpus:
        """Raises CorpusError when there is nothing."""
        return Corpus.open(self.corpus, SOURCE, Store(self.to).sub("index"), self.columns, self.max_pixels)

    def local_checkpoint(self) -> Path:
        """The checkpoint as a folder of this machine. Raises CheckpointError when it cannot be used."""
        folder = Store(self.checkpoint).local_folder()
        if self.config.engine.name != "fake":
            from vila2_ray.model.loading import check_checkpoint

            check_checkpoint(folder)
        return folder

    def job(self, corpus: Corpus) -> RecaptionJob:
        """The same checkpoint and settings always name the same layer."""
        folder, to, prompts = (
            self.local_checkpoint(),
            Store(self.to),
            Prompts(self.config.prompt_ids, self.config.prompts),
        )
        digest = _digest(folder, self.config.engine.name == "fake")
        decides = {
            "format": FORMAT_VERSION,
            "checkpoint": digest,
            "seed": self.seed,
            "max_pixels": self.max_pixels,
            "prompts": [prompts.text(prompt_id) for prompt_id in prompts.ids],
            **semantic_fields(self.config, "recaption"),
        }
        fingerprint = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
        return RecaptionJob(
            corpus=corpus,
            layer=Layer(to.sub("captions", "recaption", fingerprint[:8])),
            parts=Parts(to.sub("parts", "recaption", fingerprint[:8])),
            checkpoint_folder=folder,
            prompts=prompts,
            config=self.config,
            plan_key=f"{self.seed}:recaption",
            metadata={
                "layer": "recaption",
                "model": folder.name,
                "checkpoint_digest": digest,
                "fingerprint": fingerprint,
            },
        )


def recaption_alone(alone: AloneJob, progress: Progress, run: Run | None = None) -> tuple[Layer, RecaptionSummary]:
    """Caption the whole corpus, from wherever `to` stands. Ray must be initialised; `run` spreads the indexing over it.

    Raises CorpusError, CheckpointError, ConfigError, StorageError, StageFailed.
    """
    from vila2_ray.recaption.pipeline import recaption

    corpus = alone.open_corpus()
    job = alone.job(corpus)
    build_index(corpus.shards, corpus.columns, corpus.index_store, progress, run)
    asked = json.dumps(asdict(alone) | {"metadata": job.metadata}, indent=1, ensure_ascii=False)
    Store(alone.to).write_text(f"recaption-{job.metadata['fingerprint'][:8]}.json", asked + "\n")
    return job.layer, recaption(job, progress)


@dataclass(frozen=True)
class TriedCaption:
    """One of the captions of a trial."""

    sample: Sample
    """With its encoded image and alt text, to be shown beside the caption."""
    prompt_id: str | None
    text: str | None
    error: str | None
    """Reason and detail where there is no caption."""
    mean_logprob: float | None


@dataclass(frozen=True)
class Trial:
    """What a few captions look like, and what the others would take."""

    captions: list[TriedCaption]
    captions_per_second: float
    """Of one actor, decoding included, loading the model not."""
    load_seconds: float
    num_rest: int
    """Captions still to be made; where shards are not yet indexed, as many rows in each as in those that are."""
    seconds_rest: float
    dollars_rest: float
    engine: str


def try_sample(alone: AloneJob, number: int, node_dollars_per_hour: float) -> Trial:
    """Caption `number` samples, drawn by a hash over the whole corpus, in this process and without writing captions.

    Only shards that samples are drawn from are read. Raises CorpusError, CheckpointError, ConfigError, StorageError.
    """
    from vila2_ray.recaption.actor import ActorSpec, open_actor_engine

    began = time.monotonic()
    corpus = alone.open_corpus()
    job = alone.job(corpus)
    samples, rows_of_corpus = _draw(corpus, number, job.plan_key)
    engine = open_actor_engine(ActorSpec.of(job))
    try:
        caption(engine, _copies(samples[:1]), job.plan)  # the first call of a model is slower than all others
        loaded = time.monotonic()
        rows = caption(engine, _copies(samples), job.plan)
        seconds = time.monotonic() - loaded
    finally:
        engine.close()
    variants = job.config.num_variants
    rate = len(rows) / seconds if seconds else 0.0
    rest = max(0, rows_of_corpus - sum(corpus.num_rows(shard) for _, shard in job.layer.shards())) * variants
    seconds_rest = rest / rate / job.config.engine.max_actors if rate else 0.0
    return Trial(
        captions=[_tried(samples[place // variants], row) for place, row in enumerate(rows)],
        captions_per_second=rate,
        load_seconds=loaded - began,
        num_rest=rest,
        seconds_rest=seconds_rest,
        dollars_rest=seconds_rest / 3600 * node_dollars_per_hour,
        engine=f"{engine.name} {engine.version}",
    )


_TRIAL_SHARDS = 8
"""A trial draws from so many shards at most, so that it starts at once on a corpus of thousands."""


def _draw(corpus: Corpus, number: int, key: str) -> tuple[list[Sample], int]:
    """Samples in the order of their hashes, and the rows of the corpus (counted, or estimated from shards seen)."""
    shards = sorted(corpus.shards, key=lambda ref: _hash(key, ref.shard))
    drawn: list[tuple[str, str, int]] = []
    seen = num_rows = 0
    for ref in shards:
        if seen >= _TRIAL_SHARDS and num_rows >= number:
            break
        drawn += [(_hash(key, ref.shard, row), ref.shard, row) for row in range(corpus.num_rows(ref))]
        seen, num_rows = seen + 1, len(drawn)
    chosen = sorted(drawn)[:number]
    samples = [sample for _, shard, row in chosen for sample in corpus.read(shard, [row])]
    return samples, round(num_rows / max(1, seen) * len(shards))


def _copies(samples: list[Sample]) -> list[Sample]:
    """Captioning lets go of the bytes that it has decoded; here they are shown afterwards."""
    return [replace(sample) for sample in samples]


def _tried(sample: Sample, row: Row) -> TriedCaption:
    captioned = row["status"] == Status.CAPTIONED.value
    error = None if captioned else f"{row['error']}: {row['error_detail']}"
    return TriedCaption(sample, row["prompt_id"], row["text"], error, row["mean_logprob"])


def _hash(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _digest(folder: Path, fake: bool) -> str:
    if fake:
        return "fake"
    from vila2_ray.model.loading import checkpoint_digest

    return checkpoint_digest(folder)
