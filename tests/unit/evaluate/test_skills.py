"""Scores at a skill: the best of the wordings counts, statements are asked both ways round, truth must be known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.unit.evaluate.test_heldout import Picky, TableEngine, a_sample, open_corpus, tar
from vila2_ray.captions.boxes import Box
from vila2_ray.config import EvaluateConfig
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.engines.base import Generation, GenerationRequest
from vila2_ray.errors import CorpusError
from vila2_ray.evaluate.skills import SAID, evaluate_skill
from vila2_ray.skills.things import Line

CAT = {"name": "cat", "size": "small", "place": "left", "box": [0, 300, 300, 600]}
DOG = {"name": "dog", "size": "small", "place": "right", "box": [600, 300, 900, 600]}
SIGN = {"text": "stop", "place": "top", "box": [300, 0, 700, 150]}
CONFIG = EvaluateConfig()


def write(folder: Path, *truths: Any) -> Corpus:
    samples = {f"s{n}": a_sample(10 * n, truth=truth) for n, truth in enumerate(truths)}
    tar(folder / "shards" / "00000.tar", samples)
    return open_corpus(folder)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return write(tmp_path, {"objects": [CAT, DOG], "words": []}, {"objects": [DOG], "words": [SIGN]})


class Says(TableEngine):
    """Answers by prompt alone."""

    def _answer(self, request: GenerationRequest) -> Generation:
        text = next((said for (_, prompt), said in self.told.items() if prompt == request.prompt), "")
        return Generation(request.key, text, "stop", len(text.split()), -0.5, -1.0)


def says(**told: str) -> Says:
    wordings = {"prompt": "box all.", "question": "where?", "caption": "describe."}
    return Says(told={("", wordings.get(name, name)): text for name, text in told.items()})


def test_the_wording_that_brings_most_counts(corpus: Corpus) -> None:
    engine = says(prompt="a cat [0,300,300,600].", question="a cat [0,300,300,600], a dog [600,300,900,600].")
    scores, said = evaluate_skill(corpus, engine, "grounding", ["box all.", "x"], ["where?", "y"], CONFIG, 64)
    assert scores["box_recall_50_by_prompt"] == pytest.approx(1 / 3)
    assert scores["box_recall_50"] == scores["box_recall_50_by_question"] == 1.0
    assert "box_recall_50_by_caption" not in scores
    assert scores["num_samples"] == 2
    assert {request.sampling.max_tokens for request in engine.asked} == {64}
    assert said.schema == SAID
    rows = said.to_pylist()
    assert [(row["sample_id"], row["wording"]) for row in rows] == [
        (f"00000/s{n}", wording) for n in (0, 1) for wording in ("prompt", "question")
    ]
    assert [row["score"] for row in rows] == [0.5, 1.0, 0.0, 1.0]
    assert rows[1]["asked"] == "where?"


def test_an_ordinary_caption_counts_for_what_it_implies(corpus: Corpus) -> None:
    engine = says(caption="a small cat at the left, a small dog at the right.")
    asked = ["box all."], ["where?"], CONFIG, 64
    scores, _ = evaluate_skill(corpus, engine, "spatial", *asked, caption_prompt="describe.")
    assert scores["relation_accuracy"] == scores["relation_accuracy_by_caption"] == 1.0
    assert scores["relation_accuracy_by_prompt"] == 0.0


@pytest.mark.parametrize(
    ("left_of", "right_of", "accuracy"), [("yes", "no", 1.0), ("yes", "yes", 0.0), ("no", "yes", 0.0)]
)
def test_a_statement_must_be_answered_both_ways_round(tmp_path: Path, left_of: str, right_of: str, accuracy) -> None:
    corpus = write(tmp_path, {"objects": [CAT, DOG], "words": []})
    told = {"is the cat left of the dog?": left_of, "is the dog right of the cat?": left_of}
    told |= {"is the dog left of the cat?": right_of, "is the cat right of the dog?": right_of}
    scores, _ = evaluate_skill(corpus, says(**told), "spatial", ["box all."], ["where?"], CONFIG, 64)
    assert scores["question_accuracy"] == accuracy
    assert scores["num_question_pairs"] == 1


def test_a_request_that_fails_said_nothing(corpus: Corpus) -> None:
    engine = Picky(fails=((0, "prompt"),))
    engine.told = {(f"00000/s{n}", "read."): "stop" for n in (0, 1)}
    engine.told |= {(f"00000/s{n}", "say?"): "there is no text." for n in (0, 1)}
    scores, said = evaluate_skill(corpus, engine, "ocr", ["read."], ["say?"], CONFIG, 16)
    assert scores["word_accuracy"] == scores["word_accuracy_by_prompt"] == 1.0
    assert [row["text"] for row in said.to_pylist()] == [None, "there is no text.", "stop", "there is no text."]


def test_an_ocr_engine_says_what_is_written_where_no_truth_does(tmp_path: Path) -> None:
    class Reading:
        def read(self, image: Image.Image) -> tuple[Line, ...]:
            return (Line("sale", Box(0, 0, 500, 200), 0.9),)

    corpus = write(tmp_path, None, {"other": "things"})
    engine = says(**{"read.": "SALE!", "say?": "stop"})
    scores, _ = evaluate_skill(corpus, engine, "ocr", ["read."], ["say?"], CONFIG, 16, reader=Reading())
    assert (scores["word_accuracy"], scores["num_samples"]) == (1.0, 2)


@pytest.mark.parametrize(("skill", "remedy"), [("spatial", "objects and their boxes"), ("ocr", "install the OCR")])
def test_without_truth_the_error_says_what_to_give(tmp_path: Path, skill, remedy: str) -> None:
    corpus = write(tmp_path, None)
    with pytest.raises(CorpusError, match=rf"nothing to score {skill} by \(1 × no truth\).*{remedy}"):
        evaluate_skill(corpus, says(), skill, ["read."], ["say?"], CONFIG, 16)
