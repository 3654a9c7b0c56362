"""Finetuning conversations for a specialist, made from images by a real expert: a Ray Data job.

    shards without a file in `out` ─▶ pool of actors (an expert each: decode, annotate, converse) ─▶ `<shard>.parquet`
                                                                          ─▶ a row of counts per shard ─▶ this driver

What is done is what lies in `out`: a call goes on where the last one stopped. `build.json` says how the folder was
made; another way of making it wants another folder. A conversation follows from (seed, skill, sample) alone.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from vila2_ray.config import SkillConfig, SkillName
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.screening import Screening
from vila2_ray.corpus.shards import ShardRef
from vila2_ray.errors import ConfigError, CorpusError, StageFailed, own_cause
from vila2_ray.experts.choice import Expert, ExpertChoice, choose_expert
from vila2_ray.experts.conversations import ShardCounts, Telling, file_name, read_counts, write_shard
from vila2_ray.progress import Progress
from vila2_ray.raydata import quiet_context
from vila2_ray.storage import Store

if TYPE_CHECKING:
    from ray.data import Dataset

SETTINGS = "build.json"
_PASSES = 3
"""Over shards that are missing: an actor that died leaves its shard to the next pass."""


@dataclass(frozen=True)
class BuildJob:
    """What to make conversations of, how, and where to. Picklable."""

    skill: SkillName
    corpus: Corpus
    settings: SkillConfig
    prompts: Sequence[str]
    """Texts of the skill's captioning prompts."""
    questions: Sequence[str]
    """Texts of what the final training asks; conversations draw from both."""
    seed: int
    out: Store
    """Becomes a folder of Parquet shards, one for each of the corpus, to be trained on as `chat`."""
    screening: Screening | None = None
    """Samples that it leaves out are not looked at."""


@dataclass
class BuildSummary:
    """What became of the images of a corpus, this call's and earlier ones'."""

    num_images: int
    """That were looked at."""
    num_samples: int
    """Conversations."""
    num_turns: int
    """Answers in them."""
    left_out: dict[str, int]
    """Reason → images that no conversation was made of."""
    digest: str
    """Of all conversations with their images."""
    seconds: float
    """Of this call."""
    expert: str
    """Name and version."""


def build_conversations(job: BuildJob, progress: Progress) -> BuildSummary:
    """Make the conversations that are missing. Ray must be initialised where any are.

    Raises ConfigError when no expert is named or `out` was made with other settings, CorpusError when a shard cannot be
    read or there is nothing to learn from the whole corpus, CheckpointError, StorageError, StageFailed.
    """
    began = time.monotonic()
    expert = choose_expert(job.skill, job.settings)
    telling = Telling(job.skill, tuple(job.prompts), tuple(job.questions), job.seed, expert.name, expert.version)
    most = _shares(job)
    _check_settings(job, telling)
    progress.start(f"build-{job.skill}", sum(most.values()), "images")
    done = _done_before(job)
    num_images = sum(counts.num_images for counts in done.values())
    progress.update(num_images)
    for _ in range(_PASSES):
        missing = [ref for ref in job.corpus.shards if ref.shard not in done]
        for shard, counts in _run(job, expert, telling, missing, most) if missing else ():
            done[shard] = counts
            num_images += counts.num_images
            progress.update(num_images)
    if missing := [ref for ref in job.corpus.shards if ref.shard not in done]:
        raise StageFailed(
            f"build-{job.skill}: the process of the expert ({expert.name}) died {_PASSES} times on {missing[0].uri} "
            f"and {len(missing) - 1} other shards. Finished shards are kept; the same command goes on from there. Too "
            "little memory is the usual cause; a shard that does it alone can be moved out of the corpus"
        )
    progress.finish()
    return _summary(job, expert, [done[ref.shard] for ref in job.corpus.shards], time.monotonic() - began)


def _done_before(job: BuildJob) -> dict[str, ShardCounts]:
    """Shard → counts, of the shards whose files are there."""
    there = set(job.out.list(suffix=".parquet"))
    refs = [ref for ref in job.corpus.shards if file_name(ref) in there]
    with ThreadPoolExecutor(16) as pool:
        counts = pool.map(lambda ref: read_counts(job.out, ref), refs)
        return {ref.shard: found for ref, found in zip(refs, counts, strict=True)}


def _summary(job: BuildJob, expert: ExpertChoice, counts: Sequence[ShardCounts], seconds: float) -> BuildSummary:
    left_out = Counter[str]()
    for shard in counts:
        left_out.update(shard.left_out)
    num_samples = sum(shard.num_samples for shard in counts)
    if not num_samples:
        told = ", ".join(f"{num} × {reason}" for reason, num in left_out.most_common()) or "it holds no image"
        remedy = f"Check that {expert.name} knows these images, or give others (skills.{job.skill}.images)"
        raise CorpusError(
            job.corpus.shards[0].uri, f"nothing to learn {job.skill} from in this corpus ({told})", remedy
        )
    names = [[ref.shard, shard.digest] for ref, shard in zip(job.corpus.shards, counts, strict=True)]
    return BuildSummary(
        num_images=sum(shard.num_images for shard in counts),
        num_samples=num_samples,
        num_turns=sum(shard.num_turns for shard in counts),
        left_out=dict(left_out.most_common()),
        digest=hashlib.sha256(json.dumps(names).encode()).hexdigest(),
        seconds=seconds,
        expert=f"{expert.name} {expert.version}",
    )


def _shares(job: BuildJob) -> dict[str, int]:
    """Shard → images that are looked at: of max_samples, each has the part that it has of the corpus."""
    rows = job.corpus.rows_by_shard()
    total = sum(count for _, count in rows)
    wanted = min(job.settings.max_samples or total, total)
    shares: dict[str, int] = {}
    before = 0
    for ref, count in rows:
        shares[ref.shard] = (before + count) * wanted // total - before * wanted // total if total else 0
        before += count
    return shares


def _check_settings(job: BuildJob, telling: Telling) -> None:
    """Conversations of different settings must not lie in one folder."""
    most = job.settings.max_samples
    made = {
        "format": 1,
        **asdict(telling),
        "min_score": job.settings.min_score,
        "labels": job.settings.labels,
        "max_samples": most,
        "of_samples": job.corpus.total_rows() if most else 0,  # else shards may be added
    }
    made = json.loads(json.dumps(made))
    if not job.out.exists(SETTINGS):
        job.out.write_text(SETTINGS, json.dumps(made, indent=1, ensure_ascii=False) + "\n")
        return
    found = json.loads(job.out.read_text(SETTINGS))
    if found != made:
        other = sorted(name for name in {*found, *made} if found.get(name) != made.get(name))
        remedy = f"was made with another {', '.join(other)}; give another folder, or delete this one to make it anew"
        raise ConfigError("build folder", job.out.uri, remedy)


class _ShardBuilder:
    """The actor: an expert, opened once, that goes through shard after shard. An error comes back as a value."""

    def __init__(self, job: BuildJob, choice: ExpertChoice, telling: Telling) -> None:
        self._job, self._choice, self._telling = job, choice, telling
        self._expert: Expert | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        shard = str(row["shard"])
        try:
            return {"shard": shard, "counts": json.dumps(asdict(self._write(shard, int(row["most"])))), "error": b""}
        except Exception as error:  # only a process that dies is tried again
            told = f"build-{self._job.skill}, {shard}: met an error that it does not know:\n{traceback.format_exc()}"
            return {"shard": shard, "counts": "", "error": pickle.dumps(own_cause(error) or StageFailed(told))}

    def _write(self, shard: str, most: int) -> ShardCounts:
        self._expert = self._expert or self._choice.open()
        job, ref = self._job, self._job.corpus.shard(shard)
        screened = job.screening.flags(ref.source, shard) if job.screening is not None else {}
        return write_shard(job.corpus, ref, most, self._expert, self._telling, job.out, screened)


def _run(
    job: BuildJob, choice: ExpertChoice, telling: Telling, missing: Sequence[ShardRef], most: dict[str, int]
) -> Iterator[tuple[str, ShardCounts]]:
    """Counts of each shard as it is finished, none for one whose actor died. Raises what an actor met."""
    import ray

    with warnings.catch_warnings():
        # Ray 2.60 wants named parameters, but has none for restarts
        warnings.simplefilter("ignore", DeprecationWarning)
        context = quiet_context(len(missing))
        with context.current(context):
            dataset = _dataset(job, choice, telling, missing, most)
    try:
        with context.current(context):
            for row in dataset.iter_rows():
                if row["error"]:
                    raise pickle.loads(row["error"])
                yield row["shard"], ShardCounts(**json.loads(row["counts"]))
    except ray.exceptions.RayError as error:
        told = f"build-{job.skill}: Ray gave up ({type(error).__name__}). Finished shards are kept; run it again"
        raise own_cause(error) or StageFailed(told) from error


def _dataset(
    job: BuildJob, choice: ExpertChoice, telling: Telling, missing: Sequence[ShardRef], most: dict[str, int]
) -> Dataset:
    """A row of counts, or an error, for each shard."""
    import ray
    import ray.data
    from ray.data import ActorPoolStrategy

    cluster = ray.cluster_resources()
    gpus = 1 if choice.needs_gpu and cluster.get("GPU", 0) >= 1 else 0
    pool = max(1, min(len(missing), int(cluster.get("GPU" if gpus else "CPU", 1))))
    part = replace(job, corpus=job.corpus.part(missing))
    rows = [{"shard": ref.shard, "most": most[ref.shard]} for ref in missing]
    return ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        _ShardBuilder,
        fn_constructor_args=(part, choice, telling),
        compute=ActorPoolStrategy(size=pool, max_tasks_in_flight_per_actor=1),
        num_cpus=1,
        num_gpus=gpus or None,
        max_restarts=2,
        max_task_retries=0,
    )
