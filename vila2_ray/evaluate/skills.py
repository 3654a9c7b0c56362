"""Scores of a model at one skill, on held-out samples: what it says when asked by the skill's prompt and question.

A specialist knows one wording, a generalist another: each is asked in several, and the wording that brings the best
main score (`skills.scores.MAIN`) counts, so that none loses by how it was asked:

`prompt`     the first of the skill's captioning prompts
`question`   the first of what the final training asks
`caption`    the ordinary captioning prompt, where its text is given: what a caption implies counts as well

What is true comes from `<key>.truth.json`; printed words may also come from an OCR engine. For spatial, pairs of
questions with `yes` and `no` are asked, too.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

import pyarrow as pa

from vila2_ray.captions.prompts import seed
from vila2_ray.config import EvaluateConfig, SamplingConfig, SkillName
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.samples import Sample
from vila2_ray.engines.base import Engine, GenerationRequest, generate
from vila2_ray.errors import CorpusError, SampleError
from vila2_ray.evaluate.heldout import places
from vila2_ray.progress import NullProgress, Progress
from vila2_ray.skills.scores import MAIN, question_accuracy, score
from vila2_ray.skills.spatial import question_pairs
from vila2_ray.skills.things import Annotation, Conversation

if TYPE_CHECKING:
    from PIL.Image import Image

    from vila2_ray.experts.reader import Reader

SAID = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("wording", pa.string(), nullable=False),  # prompt, question, caption
        pa.field("asked", pa.string(), nullable=False),
        pa.field("text", pa.string()),  # null where the engine failed
        pa.field("score", pa.float32()),  # the main metric of this text alone
    ]
)
"""What a model said of one held-out sample, asked in one wording."""

PAIRS_PER_SAMPLE = 2
"""Statements of an image that are asked about, each both ways round."""


@dataclass
class _Asked:
    """One sample with what is true of it and what was said."""

    sample: Sample
    """Without its image."""
    truth: Annotation
    said: dict[str, str] = field(default_factory=dict)
    """Wording → text."""
    pairs: list[Conversation] = field(default_factory=list)
    answers: dict[tuple[int, int], str] = field(default_factory=dict)
    """(pair, question) → answer."""


def evaluate_skill(
    corpus: Corpus,
    engine: Engine,
    skill: SkillName,
    prompts: Sequence[str],
    questions: Sequence[str],
    config: EvaluateConfig,
    max_tokens: int,
    reader: Reader | None = None,
    caption_prompt: str = "",
    progress: Progress | None = None,
) -> tuple[dict[str, float], pa.Table]:
    """Scores by name and what was said (SAID), a row per sample and wording.

    The scores of `skills.scores.score` are those of the best wording; `<main>_by_<wording>` are the main scores of
    each; for spatial those of `question_accuracy` come to them. `prompts` and `questions` are texts, of each list the
    first is asked. Raises CorpusError when no sample brings the truth that the
    skill is scored by, or none could be read; EngineDied.
    """
    progress = progress or NullProgress()
    asked = {"prompt": prompts[0], "question": questions[0], "caption": caption_prompt}
    wordings = {name: text for name, text in asked.items() if text}
    known: list[_Asked] = []
    progress.start(f"ask-{skill}", 0, "answers")
    missing: Counter[str] = Counter()
    requests = _caption_requests(corpus, skill, wordings, config, max_tokens, reader, known, missing)
    for number, answer in enumerate(generate(engine, requests), 1):
        if answer.problem is None:
            known[int(answer.key[0])].said[str(answer.key[1])] = answer.text
        progress.update(number)
    progress.finish()
    if not known:
        raise _no_truth(corpus, skill, missing)
    by_wording = {name: score(skill, [(one.said.get(name, ""), one.truth) for one in known]) for name in wordings}
    main = MAIN[skill]
    best = max(by_wording, key=lambda name: by_wording[name][main])  # the first of equals
    scores = {**by_wording[best], **{f"{main}_by_{name}": found[main] for name, found in by_wording.items()}}
    if any(one.pairs for one in known):
        _ask_pairs(corpus, engine, known, config)
        scores |= question_accuracy(_answers(known))
    scores["num_samples"] = float(len(known))
    return scores, _records(skill, known, wordings)


def _caption_requests(
    corpus: Corpus,
    skill: SkillName,
    wordings: dict[str, str],
    config: EvaluateConfig,
    max_tokens: int,
    reader: Reader | None,
    known: list[_Asked],
    missing: Counter[str],
) -> Iterator[GenerationRequest]:
    """A request per wording for each sample whose truth is known, keyed by its number; appends it to `known`."""
    sampling = SamplingConfig(temperature=0.0, max_tokens=max_tokens)
    for shard, rows in places(corpus, config.max_samples):
        for sample in corpus.read(shard, rows, truth=True):
            try:
                image = corpus.decode(sample)
                truth = _truth(skill, sample, image, reader)
            except SampleError as problem:
                missing[problem.reason.value] += 1
                continue
            if truth is None:
                missing["no truth"] += 1
                continue
            sample.image = None
            drawn = random.Random(f"pairs/{sample.sample_id}")
            pairs = question_pairs(truth, drawn, PAIRS_PER_SAMPLE) if skill == "spatial" else []
            known.append(_Asked(sample, truth, pairs=pairs))
            for name, text in wordings.items():
                key = (len(known) - 1, name)
                yield GenerationRequest(key, sample.sample_id, image, text, _seed(sample), sampling)


def _truth(skill: SkillName, sample: Sample, image: Image, reader: Reader | None) -> Annotation | None:
    """What the skill is scored by; None where that is not known. Raises SampleError where the reader fails."""
    found = Annotation.from_any_truth(sample.truth)
    if skill != "ocr":
        return found if found.things is not None else None
    if found.lines is None and reader is not None:
        return Annotation(lines=reader.read(image))
    return found if found.lines is not None else None


def _ask_pairs(corpus: Corpus, engine: Engine, known: Sequence[_Asked], config: EvaluateConfig) -> None:
    for answer in generate(engine, _pair_requests(corpus, known, config)):
        if answer.problem is None:
            number, pair, question = (int(part) for part in answer.key)
            known[number].answers[pair, question] = answer.text


def _pair_requests(corpus: Corpus, known: Sequence[_Asked], config: EvaluateConfig) -> Iterator[GenerationRequest]:
    sampling = SamplingConfig(temperature=0.0, max_tokens=config.answer_max_tokens)
    numbers = [number for number, one in enumerate(known) if one.pairs]
    for shard, group in groupby(numbers, key=lambda number: known[number].sample.shard):
        inside = list(group)
        samples = corpus.read(shard, [known[number].sample.row for number in inside])
        for number, sample in zip(inside, samples, strict=True):
            image = corpus.decode(sample)
            for i, pair in enumerate(known[number].pairs):
                for j, (question, _) in enumerate(pair):
                    yield GenerationRequest((number, i, j), sample.sample_id, image, question, _seed(sample), sampling)


def _answers(known: Sequence[_Asked]) -> Iterator[tuple[tuple[int, int], str, str]]:
    """(pair, right answer, given answer) of every question."""
    for number, one in enumerate(known):
        for i, pair in enumerate(one.pairs):
            for j, (_, right) in enumerate(pair):
                yield (number, i), right, one.answers.get((i, j), "")


def _records(skill: SkillName, known: Sequence[_Asked], wordings: dict[str, str]) -> pa.Table:
    rows = []
    for one in known:
        sample = one.sample
        key = {"source": sample.source, "shard": sample.shard, "row": sample.row, "sample_id": sample.sample_id}
        for name, text in wordings.items():
            said = one.said.get(name)
            found = score(skill, [(said or "", one.truth)])[MAIN[skill]]
            rows.append({**key, "wording": name, "asked": text, "text": said, "score": found})
    return pa.Table.from_pylist(rows, schema=SAID)


def _no_truth(corpus: Corpus, skill: SkillName, missing: Counter[str]) -> CorpusError:
    told = ", ".join(f"{num} × {reason}" for reason, num in missing.most_common()) or "it is empty"
    remedy = "Give samples a <key>.truth.json with objects and their boxes, and words"
    if skill == "ocr":
        remedy += "; or install the OCR engine (pip install 'vila2-ray[ocr]'), which then says what is written"
    return CorpusError(corpus.source or "the held-out corpus", f"nothing to score {skill} by ({told})", remedy)


def _seed(sample: Sample) -> int:
    return seed("heldout", sample.sample_id)
