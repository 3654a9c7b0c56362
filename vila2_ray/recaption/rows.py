"""From samples to caption rows: which of them are asked about, with what, and what the answers look like. No Ray.

One row in, `num_variants` rows out, always: a caption, a failed row with its reason, or a row that was not selected.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from vila2_ray.captions.prompts import seed, selected
from vila2_ray.corpus.images import decode_image
from vila2_ray.corpus.samples import Sample
from vila2_ray.engines.base import Engine, Generation, GenerationRequest, Key, generate
from vila2_ray.errors import Reason, SampleError
from vila2_ray.recaption.job import CaptionPlan
from vila2_ray.schema import CAPTION, Status

Row = dict[str, Any]
Ahead = Callable[[Iterable[GenerationRequest]], Iterable[GenerationRequest]]
"""Wraps the requests of a range so that they are made ahead of use; the identity does nothing."""


@dataclass
class Settled:
    """Rows of a range that need no engine, and which rows do."""

    rows: list[Row] = field(default_factory=list)
    """Not selected, or kept from an earlier layer."""
    to_caption: list[int] = field(default_factory=list)
    num_kept: int = 0


def settle(source: str, shard: str, keys: dict[int, str], kept: dict[int, list[Row]], plan: CaptionPlan) -> Settled:
    """Divide samples (`keys`: row → key within the shard) by the plan.

    `kept`: row → its rows in the layer to keep. A sample is kept when all its variants are captioned there.
    """
    settled = Settled()
    for row, key in keys.items():
        sample_id = f"{shard}/{key}"
        before = kept.get(row, [])
        captioned = [r for r in before if r["status"] == Status.CAPTIONED.value]
        if len(captioned) == plan.num_variants == len(before) and before[0]["sample_id"] == sample_id:
            settled.rows += captioned
            settled.num_kept += len(captioned)
        elif not selected(plan.plan_key, sample_id, plan.fraction):
            settled.rows += [
                _row(source, shard, row, sample_id, variant, Status.NOT_SELECTED)
                for variant in range(plan.num_variants)
            ]
        else:
            settled.to_caption.append(row)
    return settled


def caption(engine: Engine, samples: Iterable[Sample], plan: CaptionPlan, ahead: Ahead = iter) -> list[Row]:
    """Rows of `samples`, `num_variants` each, in their order. Images are decoded as the engine asks for them.

    Raises EngineDied. Whatever is wrong with a sample becomes its failed rows. Lets go of the samples' bytes.
    """
    order: list[Sample] = []
    digests: dict[tuple[str, int], str | None] = {}
    problems: dict[tuple[str, int], SampleError] = {}

    def requests() -> Iterator[GenerationRequest]:
        for sample in samples:
            order.append(sample)
            digest = hashlib.sha256(sample.image).hexdigest() if sample.image else None
            digests[sample.shard, sample.row] = digest
            try:
                yield from _requests(sample, digest, plan)
            except SampleError as problem:
                problems[sample.shard, sample.row] = problem
            sample.image = None  # its pixels go on in the requests; the bytes are no longer needed

    answers: dict[Key, Generation] = {answer.key: answer for answer in generate(engine, ahead(requests()))}
    rows: list[Row] = []
    for sample in order:
        for variant in range(plan.num_variants):
            row = _row(sample.source, sample.shard, sample.row, sample.sample_id, variant, Status.FAILED)
            row["image_sha256"] = digests[sample.shard, sample.row]
            if problem := problems.get((sample.shard, sample.row)):
                rows.append(_with_problem(row, problem))
            else:
                row["prompt_id"] = _prompt_id(sample.sample_id, variant, plan)
                rows.append(_with_answer(row, answers[sample.shard, sample.row, variant]))
    return rows


def to_table(rows: Sequence[Row], start: int, stop: int, num_variants: int) -> pa.Table:
    """Rows [start, stop) of a shard as a CAPTION table in shard order: one row in, `num_variants` rows out."""
    ordered = sorted(rows, key=lambda row: (row["row"], row["variant"]))
    there = [(row["row"], row["variant"]) for row in ordered]
    wanted = [(row, variant) for row in range(start, stop) for variant in range(num_variants)]
    assert there == wanted, f"rows {start} to {stop - 1} went in, {len(there)} rows × variants came out"
    return pa.Table.from_pylist(ordered, schema=CAPTION)


def _requests(sample: Sample, digest: str | None, plan: CaptionPlan) -> list[GenerationRequest]:
    if sample.problem:
        raise sample.problem
    if not sample.image:
        raise SampleError(Reason.NO_IMAGE, "the sample has no image")
    image = decode_image(sample.image, plan.max_pixels)
    return [
        GenerationRequest(
            key=(sample.shard, sample.row, variant),
            image_key=str(digest),
            image=image,
            prompt=plan.prompts.text(_prompt_id(sample.sample_id, variant, plan)),
            seed=seed(plan.plan_key, sample.sample_id, variant),
            sampling=plan.sampling,
        )
        for variant in range(plan.num_variants)
    ]


def _prompt_id(sample_id: str, variant: int, plan: CaptionPlan) -> str:
    return plan.prompts.draw(plan.prompt_ids, plan.plan_key, sample_id, variant)


def _row(source: str, shard: str, row: int, sample_id: str, variant: int, status: Status) -> Row:
    there: Row = dict.fromkeys(CAPTION.names)
    there.update(source=source, shard=shard, row=row, sample_id=sample_id, variant=variant, status=status.value)
    return there


def _with_problem(row: Row, problem: SampleError) -> Row:
    return {**row, "error": problem.reason.value, "error_detail": problem.detail}


def _with_answer(row: Row, answer: Generation) -> Row:
    if answer.problem is not None:
        return _with_problem(row, answer.problem)
    return {
        **row,
        "status": Status.CAPTIONED.value,
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "num_output_tokens": answer.num_output_tokens,
        "mean_logprob": answer.mean_logprob,
        "min_logprob": answer.min_logprob,
    }
