"""From samples to caption rows: which of them are asked about, with what, and what the answers look like. No Ray.

One row in, `num_variants` rows out, always: a caption, a failed row with its reason, or a row that was not selected.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
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


@dataclass
class Settled:
    """Rows of a range that need no engine, and which rows do."""

    rows: list[Row] = field(default_factory=list)
    """Not selected, or kept from an earlier layer."""
    to_caption: list[int] = field(default_factory=list)
    num_kept: int = 0


def settle(
    source: str,
    shard: str,
    keys: dict[int, str],
    kept: dict[int, list[Row]],
    plan: CaptionPlan,
    screened: Mapping[int, list[str]] | None = None,
) -> Settled:
    """Divide samples (`keys`: row → key within the shard) by the plan.

    `kept`: row → its rows in the layer to keep. A sample is kept when all its variants are captioned there.
    `screened`: row → flags of samples that are left out; what they are left out for stands in `error_detail`.
    """
    screened = screened or {}
    settled = Settled()
    for row, key in keys.items():
        sample_id = f"{shard}/{key}"
        before = kept.get(row, [])
        if flags := screened.get(row):
            detail = f"screened: {', '.join(flags)}"
            settled.rows += [
                {**_row(source, shard, row, sample_id, variant, Status.NOT_SELECTED), "error_detail": detail}
                for variant in range(plan.num_variants)
            ]
        elif _is_kept(before, sample_id, plan.num_variants):
            settled.rows += before
            settled.num_kept += len(before)
        elif not selected(plan.plan_key, sample_id, plan.fraction):
            settled.rows += [
                _row(source, shard, row, sample_id, variant, Status.NOT_SELECTED)
                for variant in range(plan.num_variants)
            ]
        else:
            settled.to_caption.append(row)
    return settled


class Captioning:
    """The captioning of one range: makes its requests as they are asked for, and its rows from their answers."""

    def __init__(self, engine: Engine, samples: Iterable[Sample], plan: CaptionPlan) -> None:
        self._engine, self._samples, self._plan = engine, samples, plan
        self._order: list[tuple[Sample, str | None, SampleError | None]] = []
        """The samples with the digests of their images and what is wrong with them."""
        self.decode_seconds = 0.0
        self.prepare_seconds = 0.0

    def requests(self) -> Iterator[GenerationRequest]:
        """Images are decoded as this is read, and each sample lets go of its bytes then."""
        for sample in self._samples:
            digest = hashlib.sha256(sample.image).hexdigest() if sample.image else None
            problem, requests = None, list[GenerationRequest]()
            try:
                began = time.monotonic()
                requests = _requests(sample, str(digest), self._plan)
                decoded = time.monotonic()
                requests = [self._engine.prepare(request) for request in requests]
                self.decode_seconds += decoded - began
                self.prepare_seconds += time.monotonic() - decoded
            except SampleError as error:
                problem, requests = error, []
            sample.image = None  # its pixels go on in the requests; the bytes are no longer needed
            self._order.append((sample, digest, problem))
            yield from requests

    def rows(self, answers: Mapping[Key, Generation]) -> list[Row]:
        """Rows of the samples, `num_variants` each, in their order."""
        rows: list[Row] = []
        for sample, digest, problem in self._order:
            for variant in range(self._plan.num_variants):
                row = _row(sample.source, sample.shard, sample.row, sample.sample_id, variant, Status.FAILED)
                row["image_sha256"] = digest
                if problem:
                    rows.append(_with_problem(row, problem))
                else:
                    row["prompt_id"] = _prompt_id(sample.sample_id, variant, self._plan)
                    rows.append(_with_answer(row, answers[sample.shard, sample.row, variant]))
        return rows


def caption(engine: Engine, samples: Iterable[Sample], plan: CaptionPlan) -> list[Row]:
    """Rows of `samples`, `num_variants` each, in their order, from an engine that works for nobody else.

    Raises EngineDied. Whatever is wrong with a sample becomes its failed rows. Lets go of the samples' bytes.
    """
    captioning = Captioning(engine, samples, plan)
    return captioning.rows({answer.key: answer for answer in generate(engine, captioning.requests())})


def died_rows(source: str, shard: str, row: int, key: str, num_variants: int) -> list[Row]:
    """The rows of a sample on which the engine's process died, whenever it was tried."""
    problem = SampleError(Reason.ENGINE_DIED, "the engine's process died each time that it worked on this sample alone")
    return [
        _with_problem(_row(source, shard, row, f"{shard}/{key}", variant, Status.FAILED), problem)
        for variant in range(num_variants)
    ]


def figures_of(table: pa.Table, kept: Mapping[int, Sequence[Row]], num_variants: int) -> dict[str, int]:
    """Figures of a part as its actor would have told them; `kept`: row → its rows in the layer to keep."""
    figures: Counter[str] = Counter()
    for row in table.select(["row", "sample_id", "status", "num_output_tokens"]).to_pylist():
        captioned = row["status"] == Status.CAPTIONED.value
        if captioned and _is_kept(kept.get(row["row"], []), row["sample_id"], num_variants):
            figures["kept"] += 1
        else:
            figures.update({row["status"]: 1, "tokens": row["num_output_tokens"] or 0})
    return dict(figures)


def to_table(rows: Sequence[Row], start: int, stop: int, num_variants: int) -> pa.Table:
    """Rows [start, stop) of a shard as a CAPTION table in shard order: one row in, `num_variants` rows out."""
    ordered = sorted(rows, key=lambda row: (row["row"], row["variant"]))
    there = [(row["row"], row["variant"]) for row in ordered]
    wanted = [(row, variant) for row in range(start, stop) for variant in range(num_variants)]
    assert there == wanted, f"rows {start} to {stop - 1} went in, {len(there)} rows × variants came out"
    return pa.Table.from_pylist(ordered, schema=CAPTION)


def _requests(sample: Sample, digest: str, plan: CaptionPlan) -> list[GenerationRequest]:
    if sample.problem:
        raise sample.problem
    if not sample.image:
        raise SampleError(Reason.NO_IMAGE, "the sample has no image")
    image = decode_image(sample.image, plan.max_pixels)
    return [
        GenerationRequest(
            key=(sample.shard, sample.row, variant),
            image_key=digest,
            image=image,
            prompt=plan.prompts.text(_prompt_id(sample.sample_id, variant, plan)),
            seed=seed(plan.plan_key, sample.sample_id, variant),
            sampling=plan.sampling,
        )
        for variant in range(plan.num_variants)
    ]


def _is_kept(before: Sequence[Row], sample_id: str, num_variants: int) -> bool:
    """Whether a sample's rows in the layer to keep, `before`, are taken over: all its variants are captioned there."""
    captioned = [row for row in before if row["status"] == Status.CAPTIONED.value]
    return len(captioned) == num_variants == len(before) and before[0]["sample_id"] == sample_id


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
