"""What specialists answered, asked again beside an SFT set: what is trained on, how much of it, and in which pieces."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.train import small
from tests.unit.train.test_items import layer
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.model.loading import load_processor
from vila2_ray.progress import NullProgress
from vila2_ray.recipes.tiny import BASE_FOLDER
from vila2_ray.storage import Store
from vila2_ray.train.external import manifest
from vila2_ray.train.job import TrainingJob, TrainingSource, rehearsed
from vila2_ray.train.trainer import train_in_process
from vila2_ray.train.work import open_source, ready_plan

ANSWERS = {"grounding": "a cat [1,2,3,4]", "ocr": "STOP"}
EPOCHS = 2


def job(folder: Path, share: float, *settings: str, apart: bool = True) -> TrainingJob:
    """Finetuning on a dozen conversations of two questions, beside a dozen pairs that two specialists captioned."""
    told = [f"train.sft.num_epochs={EPOCHS}", "train.sft.batch_size=1", "train.sft.micro_batch_size=1"]
    made = small.job(folder, "sft", *told, f"skills.turns={'apart' if apart else 'joined'}", *settings)
    pairs = Corpus.open(str(small.write_shards(folder / "pairs")), "pretrain", Store(folder / "index"))
    layers = [
        (skill, *layer(folder / skill, [{"text": answer} for _ in range(6)])) for skill, answer in ANSWERS.items()
    ]
    general = layer(folder / "general", [{"text": "what a view"}] * 6)
    asked = TrainingSource(pairs, "pairs", layers=[general], specialists=layers)
    own, again = rehearsed(made.sources, asked, share, apart)
    return replace(made, apart=own.apart, mixture=(again,))


def learned(made: TrainingJob) -> list[tuple[str, tuple[str, str, int], str]]:
    """(source, sample, supervised text) of every planned item, in order."""
    source, tokenizer = open_source(made), load_processor(BASE_FOLDER).tokenizer
    plan = ready_plan(made, source, NullProgress())
    found = []
    for number in range(plan.num_sequences):
        for key, tokens in zip(plan.sequence(number), source.tokens(plan.sequence(number)), strict=True):
            text = tokenizer.decode(tokens.input_ids[tokens.supervised])
            found.append((key.source, key[:3], text))
    return found


def test_answers_are_repeated_without_alt_text_and_captions(tmp_path: Path) -> None:
    found = learned(job(tmp_path, 1.0))
    again = [text for source, _, text in found if source == "pretrain"]
    assert len(again) == EPOCHS * 12 * len(ANSWERS)
    assert not [text for text in again if "picture" in text or "view" in text]
    assert sum("[" in text for text in again) == EPOCHS * 6, "the first shard's boxes"
    own = [text.startswith("a cat") for source, _, text in found if source == "sft"]
    assert Counter(own) == {True: EPOCHS * 12, False: EPOCHS * 12}, "every answer is an item of its own"


@pytest.mark.parametrize("apart", [True, False])
def test_a_share_of_samples_is_drawn_whole_and_alike_everywhere(tmp_path: Path, apart: bool) -> None:
    made = job(tmp_path, 0.5, apart=apart)
    found, in_pieces = learned(made), len(ANSWERS) if apart else 1
    drawn = Counter(sample for source, sample, _ in found if source == "pretrain")
    assert 0 < sum(drawn.values()) < EPOCHS * 12 * in_pieces
    assert all(count % in_pieces == 0 for count in drawn.values()), "all that was asked of a sample, or nothing"
    assert sum(source == "sft" for source, _, _ in found) == EPOCHS * 12 * (2 if apart else 1), "the SFT set is whole"
    assert learned(job(tmp_path, 0.5, apart=apart)) == found
    other = learned(job(tmp_path, 0.5, "seed=1", apart=apart))
    assert Counter(sample for source, sample, _ in other if source == "pretrain") != drawn


def test_what_is_planned_is_what_is_trained_on(tmp_path: Path) -> None:
    made = job(tmp_path, 0.5)
    plan = ready_plan(made, None, NullProgress())
    summary = train_in_process(made, NullProgress())
    assert summary.num_samples == plan.num_items == summary.num_steps
    assert summary.by_source == plan.by_source()
    assert summary.by_source["sft"]["items"] == EPOCHS * 24
    assert summary.num_tokens == sum(told["tokens"] for told in summary.by_source.values())


def test_it_is_other_work_than_without(tmp_path: Path) -> None:
    made = job(tmp_path, 0.5)
    others: list[dict[str, Any]] = [{"apart": False}, {"mixture": ()}]
    keys = {replace(made, **change).plan_key() for change in others}
    (again,) = made.mixture
    keys |= {replace(made, mixture=(replace(again, alt_text=True),)).plan_key(), job(tmp_path, 0.25).plan_key()}
    assert len(keys - {made.plan_key()}) == 4


def test_another_trainer_is_told(tmp_path: Path) -> None:
    made = job(tmp_path, 0.5)
    told = manifest(made, ready_plan(made, None, NullProgress()), tmp_path / "out")
    own, again = told["sources"]
    assert (own["kind"], own["apart"]) == ("chat", True)
    assert (again["kind"], again["alt_text"], again["share"]["weight"]) == ("pairs", False, 0.5)
    assert [found["specialist"] for found in again["shards"][0]["layers"]] == ["grounding", "ocr"]
    json.dumps(told)
