"""Which expert a skill gets, what it is called, and what is said where there is none."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from tests.unit.experts.annotated import CAT_AND_DOG, open_corpus, square, write_annotations, write_shards
from vila2_ray.config import SkillConfig
from vila2_ray.errors import CheckpointError, ConfigError, CorpusError
from vila2_ray.experts.choice import choose_expert


@pytest.mark.parametrize("skill", ["spatial", "grounding"])
def test_boxes_must_come_from_somewhere(skill) -> None:
    with pytest.raises(ConfigError, match=rf"skills\.{skill}\.annotations=URI .* skills\.{skill}\.detector=FOLDER"):
        choose_expert(skill, SkillConfig())


def test_what_is_not_there_is_said_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no file there"):
        choose_expert("spatial", SkillConfig(annotations=str(tmp_path / "none.jsonl")))
    with pytest.raises(CheckpointError, match="is not a folder"):
        choose_expert("spatial", SkillConfig(detector=str(tmp_path / "none")))


def test_ocr_needs_nothing_to_be_named() -> None:
    assert choose_expert("ocr", SkillConfig()).name == "rapidocr"


def test_annotations_are_named_by_what_they_are(tmp_path: Path) -> None:
    names = write_shards(tmp_path / "images", [[square(0)]])
    sure, unsure = CAT_AND_DOG.things[0], CAT_AND_DOG.things[1]
    uri = write_annotations(tmp_path / "boxes.jsonl", {names[0]: CAT_AND_DOG})
    choice = choose_expert("grounding", SkillConfig(annotations=uri, min_score=0.8))
    assert choice.name == "boxes.jsonl"
    expert = pickle.loads(pickle.dumps(choice)).open()
    corpus = open_corpus(tmp_path)
    sample = next(corpus.read("00000"))
    assert expert.annotate([sample], [corpus.decode(sample)])[0].things == (sure,)
    write_annotations(tmp_path / "boxes.jsonl", {names[0]: CAT_AND_DOG, "more": CAT_AND_DOG})
    assert choose_expert("grounding", SkillConfig(annotations=uri)).version != choice.version
    assert unsure.score < 0.8
