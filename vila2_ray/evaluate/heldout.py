"""Scores of a model on held-out samples: it captions each image and answers the questions there are about it, greedily.

What can be scored depends on what the samples bring:

`<key>.truth.json`       object, place and hallucination scores of the caption
`questions` field        vqa_accuracy and vqa_<kind>_accuracy; [{"kind", "question", "answer"}, …]
`caption` field          reference_f1, reference_cider (where it is not the alt text itself)
alt text                 alt_text_recall, alt_text_novelty
an image and no more     length, variety, share of unfinished captions, mean log-probability of the model's own words

Samples that cannot be decoded, or that the engine fails on, are skipped and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import pyarrow as pa

from vila2_ray.captions.metrics import alt_text_metrics, caption_metrics, reference_metrics, token_f1
from vila2_ray.captions.prompts import Prompts, seed
from vila2_ray.captions.words import has_content
from vila2_ray.config import EvaluateConfig, SamplingConfig
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.samples import Sample
from vila2_ray.engines.base import Engine, Generation, GenerationRequest, generate
from vila2_ray.errors import CorpusError, SampleError
from vila2_ray.evaluate.ranking import is_lower_better, richest_metric
from vila2_ray.evaluate.truth import score_answers, score_captions
from vila2_ray.progress import NullProgress, Progress
from vila2_ray.recipes.tiny.world import NAMES
from vila2_ray.schema import HELDOUT

__all__ = ["Question", "Scored", "evaluate", "is_lower_better", "richest_metric", "score"]


@dataclass
class Question:
    """A question about a held-out image; `given` is None until it is answered, or where that failed."""

    kind: str
    question: str
    expected: str
    given: str | None = None

    @property
    def is_right(self) -> bool:
        return score_answers([(self.kind, self.expected, self.given or "")])["all"] == 1.0


@dataclass
class Scored:
    """One held-out sample with what the model said of it."""

    source: str
    shard: str
    row: int
    sample_id: str
    alt_text: str = ""
    truth: Mapping[str, Any] | None = None
    reference: str | None = None
    questions: list[Question] = field(default_factory=list)
    caption: Generation | None = None
    problem: SampleError | None = None
    """Why it was skipped."""

    @property
    def text(self) -> str:
        assert self.caption is not None, f"{self.sample_id} was skipped"
        return self.caption.text


def evaluate(
    corpus: Corpus, engine: Engine, config: EvaluateConfig, prompts: Prompts, progress: Progress | None = None
) -> tuple[dict[str, float], pa.Table]:
    """Scores by name, and one record (HELDOUT) per sample, in the corpus's order.

    With `config.max_samples`, as many are taken at even distances over the whole corpus. Raises CorpusError when not
    one sample could be scored, ConfigError for an unknown prompt, EngineDied.
    """
    progress = progress or NullProgress()
    chosen = places(corpus, config.max_samples)
    samples: list[Scored] = []
    # captions first, then answers: an engine works on requests of one length together
    progress.start("evaluate", sum(len(rows) for _, rows in chosen), "samples")
    for num, answer in enumerate(generate(engine, _caption_requests(corpus, chosen, config, prompts, samples)), 1):
        sample = samples[int(answer.key[0])]
        sample.caption, sample.problem = (None if answer.problem else answer), answer.problem
        progress.update(num)
    progress.finish()
    progress.start("answer", sum(len(sample.questions) for sample in samples), "questions")
    for num, answer in enumerate(generate(engine, _answer_requests(corpus, samples, config)), 1):
        question = samples[int(answer.key[0])].questions[int(answer.key[1])]
        question.given = None if answer.problem else answer.text
        progress.update(num)
    progress.finish()
    return score(samples), records(samples)


def score(samples: Sequence[Scored]) -> dict[str, float]:
    """Every score that these samples allow, by name. Raises CorpusError when all of them were skipped."""
    spoken = [sample for sample in samples if sample.problem is None]
    if not spoken:
        raise _nothing_scored(samples)
    captions = [sample.text for sample in spoken]
    scores = {**_truth_scores(spoken, _names(spoken)), **_answer_scores(spoken)}
    referred = [sample for sample in spoken if sample.reference is not None]
    scores.update(reference_metrics([s.text for s in referred], [s.reference or "" for s in referred]))
    scores.update(alt_text_metrics(captions, [sample.alt_text for sample in spoken]))
    scores.update(caption_metrics(captions))
    generations = [sample.caption for sample in spoken if sample.caption is not None]
    scores["mean_logprob"] = sum(found.mean_logprob for found in generations) / len(generations)
    scores["unfinished_share"] = sum(found.finish_reason == "length" for found in generations) / len(generations)
    scores["num_samples"] = float(len(spoken))
    scores["num_skipped"] = float(len(samples) - len(spoken))
    return scores


def records(samples: Sequence[Scored]) -> pa.Table:
    """One row (HELDOUT) per sample."""
    names = _names(samples)
    return pa.Table.from_pylist([_record(sample, names) for sample in samples], schema=HELDOUT)


def places(corpus: Corpus, max_samples: int) -> list[tuple[str, list[int]]]:
    """(shard, rows) that are scored, in the corpus's order."""
    counts = [(ref.shard, corpus.num_rows(ref)) for ref in corpus.shards]
    total = sum(count for _, count in counts)
    num = min(max_samples, total) if max_samples > 0 else total
    wanted = (i * total // num for i in range(num))
    chosen: list[tuple[str, list[int]]] = []
    start, position = 0, next(wanted, None)
    for shard, count in counts:
        rows = []
        while position is not None and position < start + count:
            rows.append(position - start)
            position = next(wanted, None)
        if rows:
            chosen.append((shard, rows))
        start += count
    return chosen


def _caption_requests(
    corpus: Corpus,
    chosen: Sequence[tuple[str, list[int]]],
    config: EvaluateConfig,
    prompts: Prompts,
    samples: list[Scored],
) -> Iterator[GenerationRequest]:
    """A request for each sample that can be decoded, keyed by its number; appends every sample to `samples`."""
    prompt = prompts.text(config.prompt_id)
    sampling = SamplingConfig(temperature=0.0, max_tokens=config.max_tokens)
    for shard, rows in chosen:
        for sample in corpus.read(shard, rows, truth=True):
            scored = _scored(sample)
            samples.append(scored)
            try:
                image = corpus.decode(sample)
            except SampleError as problem:
                scored.problem = problem
                continue
            name = sample.sample_id
            yield GenerationRequest((len(samples) - 1,), name, image, prompt, _seed(name), sampling)


def _answer_requests(corpus: Corpus, samples: Sequence[Scored], config: EvaluateConfig) -> Iterator[GenerationRequest]:
    """A request for each question about a captioned sample, keyed by the sample's number and the question's."""
    sampling = SamplingConfig(temperature=0.0, max_tokens=config.answer_max_tokens)
    asked = [number for number, sample in enumerate(samples) if sample.problem is None and sample.questions]
    for shard, group in groupby(asked, key=lambda number: samples[number].shard):
        numbers = list(group)
        rows = [samples[number].row for number in numbers]
        for number, sample in zip(numbers, corpus.read(shard, rows), strict=True):
            image, name = corpus.decode(sample), sample.sample_id
            for j, question in enumerate(samples[number].questions):
                yield GenerationRequest((number, j), name, image, question.question, _seed(name), sampling)


def _seed(sample_id: str) -> int:
    return seed("heldout", sample_id)


def _scored(sample: Sample) -> Scored:
    reference = sample.extra.get("caption")
    if not isinstance(reference, str) or not has_content(reference) or reference.strip() == sample.alt_text.strip():
        reference = None  # img2dataset writes the alt text there
    return Scored(
        source=sample.source,
        shard=sample.shard,
        row=sample.row,
        sample_id=sample.sample_id,
        alt_text=sample.alt_text,
        truth=sample.truth if _can_be_scored(sample.truth) else None,
        reference=reference,
        questions=_questions(sample.extra.get("questions")),
    )


def _can_be_scored(truth: object) -> bool:
    """Whether this is a scene's truth as `evaluate.truth` reads it: a corpus may keep other things by that name."""
    if not isinstance(truth, dict) or not isinstance(truth.get("objects"), list):
        return False
    things, printed = truth["objects"], truth.get("words", [])
    return all(isinstance(thing, dict) and {"name", "place", "size"} <= thing.keys() for thing in things) and (
        isinstance(printed, list) and all(isinstance(word, dict) and "text" in word for word in printed)
    )


def _questions(given: object) -> list[Question]:
    """Those of a sample's questions that have a text and an answer."""
    return [
        Question(str(asked.get("kind") or "question"), asked["question"], asked["answer"])
        for asked in (given if isinstance(given, list) else [])
        if isinstance(asked, dict)
        and isinstance(asked.get("question"), str)
        and isinstance(asked.get("answer"), str)
        and has_content(asked["question"])
    ]


def _truth_scores(samples: Sequence[Scored], names: Sequence[str]) -> dict[str, float]:
    pairs = [(sample.text, sample.truth) for sample in samples if sample.truth is not None]
    if not pairs:
        return {}
    found = score_captions([caption for caption, _ in pairs], [truth for _, truth in pairs], names).as_dict()
    return {name: value for name, value in found.items() if name not in ("num_captions", "words_per_caption")}


def _answer_scores(samples: Sequence[Scored]) -> dict[str, float]:
    answered = [question for sample in samples for question in sample.questions if question.given is not None]
    found = score_answers([(asked.kind, asked.expected, asked.given or "") for asked in answered])
    return {"vqa_accuracy" if kind == "all" else f"vqa_{kind}_accuracy": value for kind, value in found.items()}


def _names(samples: Sequence[Scored]) -> list[str]:
    """What captions can name: the tiny world's things, and whatever else is in these scenes."""
    seen = {str(thing["name"]) for sample in samples if sample.truth for thing in sample.truth["objects"]}
    return sorted({*NAMES, *seen})


def _record(sample: Scored, names: Sequence[str]) -> dict[str, Any]:
    key = {"source": sample.source, "shard": sample.shard, "row": sample.row, "sample_id": sample.sample_id}
    if sample.problem is not None or sample.caption is None:
        problem = sample.problem
        return {**key, "error": problem and problem.reason.value, "error_detail": problem and problem.detail}
    truth = _truth_scores([sample], names)
    said = sample.caption
    return {
        **key,
        "caption": said.text,
        "finish_reason": said.finish_reason,
        "mean_logprob": said.mean_logprob,
        "min_logprob": said.min_logprob,
        **{name: truth.get(name) for name in ("object_f1", "object_place_f1", "hallucination_rate")},
        "reference_f1": None if sample.reference is None else token_f1(said.text, sample.reference),
        "answers": [
            {
                "kind": asked.kind,
                "question": asked.question,
                "expected": asked.expected,
                "given": asked.given,
                "is_right": asked.is_right,
            }
            for asked in sample.questions
            if asked.given is not None
        ],
    }


def _nothing_scored(samples: Sequence[Scored]) -> CorpusError:
    reasons = Counter(sample.problem.reason.value for sample in samples if sample.problem is not None)
    told = ", ".join(f"{num} × {reason}" for reason, num in reasons.most_common()) or "it is empty"
    source = samples[0].source if samples else "the held-out corpus"
    return CorpusError(source, f"not one sample could be scored ({told})", "Give corpus.heldout readable images")
