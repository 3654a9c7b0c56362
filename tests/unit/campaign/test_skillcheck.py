"""A specialist's captions in the filter stage: the filters that fit, and what experts and boxes say against them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.campaign.folders import ROUND_0, begin, finish
from tests.unit.campaign.layers import SOURCE, write_corpus, write_layer
from tests.unit.judge.judgements import edited, judgement, write_judgements
from vila2_ray.campaign import captioning, skillcheck
from vila2_ray.campaign import plan as plans
from vila2_ray.campaign.api import Campaign
from vila2_ray.campaign.inputs import observe
from vila2_ray.campaign.skillcheck import SkillCheck, open_check
from vila2_ray.campaign.stages import WORK, Done
from vila2_ray.corpus.verdicts import Verdicts
from vila2_ray.errors import SampleError
from vila2_ray.experts.choice import ExpertChoice
from vila2_ray.skills.flags import SkillFlag
from vila2_ray.skills.things import Annotation, Box, Line
from vila2_ray.storage import Store

Change = Callable[[str, int, int], dict[str, Any]]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards are judged in this process."""
    monkeypatch.setattr(captioning, "ray_map", lambda function, items, **_: map(function, items))


def judged(tmp_path: Path, skill: str, change: Change, *options: str) -> tuple[Done, Verdicts, list[str]]:
    """The filter stage of a specialist that beats the generalist, over a layer of 2 × 20 captions."""
    write_corpus(tmp_path / "corpus", [20, 20], "STOP at the sign {row}")
    settings = (f"corpus.pretrain={tmp_path}/corpus/shards", "rounds.max=0", f"specialists=[{skill}]", *options)
    config = begin(tmp_path / "campaign", *settings)
    found = {"metric": "m", "beats": True, "reason": "", "skill": {}, "generalist": {}}
    finish(config, *ROUND_0, *(f"{kind}-{skill}" for kind in ("build", "sft", "evaluate")), summary=found)
    (fp8,) = finish(config, f"recaption-{skill}").values()
    write_layer(Store(config.campaign).sub("captions", skill, fp8), Campaign(config.campaign).corpus(), 1, change)
    run = observe(Campaign(config.campaign))
    notes: list[str] = []
    run.progress.note = notes.append  # type: ignore[method-assign]
    stage = next(stage for stage in plans.stages(config) if stage.name == f"filter-{skill}")
    return WORK["filter"](run, stage, "a" * 64), run.layout.verdicts(skill, "a" * 64), notes


class Read:
    """An OCR engine that reads STOP wherever it looks, and remembers where it looked."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def annotate(self, samples: Any, images: Any) -> list[Annotation | SampleError | None]:
        self.seen += [sample.sample_id for sample in samples]
        return [Annotation(lines=(Line("STOP", Box(1, 1, 9, 9)),)) for _ in images]


def test_printed_words_are_held_against_what_the_engine_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Read()
    monkeypatch.setattr(ExpertChoice, "open", lambda _: engine)
    monkeypatch.setattr(skillcheck, "has_reader", lambda: True)
    skillcheck._opened.cache_clear()

    def texts(shard: str, row: int, variant: int) -> dict[str, Any]:
        if row == 2:
            return {"text": "STOP", "mean_logprob": -9.0}
        return {"text": ("STOP", "closed for ever", "", "there is no text.")[row % 4 if row < 4 else 0]}

    done, verdicts, notes = judged(tmp_path, "ocr", texts)
    found = verdicts.flags(SOURCE, "00000")
    assert found == {
        (1, 0): [SkillFlag.WORD_NOT_READ.value],
        (2, 0): ["low_mean_logprob"],
        (3, 0): [SkillFlag.NO_TEXT_BUT_READ.value],
    }, "one word is a whole answer, alt text may hold it, and that many say the same is no collapse"
    assert "00000/002" not in engine.seen, "what is left out anyway is not looked at"
    assert len(engine.seen) == 38
    assert done.summary["flags"]["kept"] == 34
    assert done.summary["expert"].startswith("rapidocr ")
    assert not [note for note in notes if "not installed" in note]


def test_a_persons_word_stands_against_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Read()
    monkeypatch.setattr(ExpertChoice, "open", lambda _: engine)
    monkeypatch.setattr(skillcheck, "has_reader", lambda: True)
    skillcheck._opened.cache_clear()
    file = write_judgements(
        tmp_path / "votes.csv",
        edited(1, "ocr", "closed for ever"),
        judgement(2, "ocr", "alt_text", "second"),  # a specialist's captions are not chosen among
    )
    done, verdicts, _ = judged(tmp_path, "ocr", lambda *_: {"text": "STOP"}, f"pick.votes={file}")
    assert verdicts.opinions(SOURCE, "00000") == ({}, {(1, 0): "closed for ever"})
    assert "00000/001" not in engine.seen
    assert done.summary["flags"]["kept"] == 40


def test_without_the_engine_words_are_not_checked_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(skillcheck, "has_reader", lambda: False)
    done, verdicts, notes = judged(tmp_path, "ocr", lambda *_: {"text": "closed for ever"})
    assert verdicts.flags(SOURCE, "00000") == {}
    assert done.summary["expert"] == ""
    assert any("OCR engine is not installed" in note for note in notes)


def test_relations_are_held_against_annotations_of_the_corpus(tmp_path: Path) -> None:
    things = [{"name": "cat", "box": [0, 400, 200, 600]}, {"name": "dog", "box": [700, 400, 900, 600]}]
    rows = [{"sample_id": f"{shard:05}/{row:03}", "things": things} for shard in range(2) for row in range(10)]
    file = tmp_path / "boxes.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))

    def texts(shard: str, row: int, variant: int) -> dict[str, Any]:
        side = "left of" if row % 2 else "right of"
        return {"text": f"the cat is {side} the dog." if row != 19 else "A nice picture."}

    skillcheck._opened.cache_clear()
    done, verdicts, _ = judged(
        tmp_path, "spatial", texts, f"skills.spatial.annotations={file}", "skills.spatial.images="
    )
    found = {row: flags for (row, _), flags in verdicts.flags(SOURCE, "00001").items()}
    wrong = {row: [SkillFlag.RELATION_WRONG.value] for row in (0, 2, 4, 6, 8)}
    assert found == {**wrong, 19: [SkillFlag.NO_RELATION.value]}
    assert done.summary["expert"].startswith("boxes.jsonl ")


def test_boxes_are_judged_by_their_form_where_nothing_is_known(tmp_path: Path) -> None:
    texts = ("a cat [10,20,300,400] sits.", "a cat [10,20,3000,400] sits.", "a cat is sitting here.")
    others = ("skills.grounding.annotations=/boxes", "skills.grounding.images=/other/pictures")
    _, verdicts, notes = judged(
        tmp_path, "grounding", lambda shard, row, v: {"text": texts[row % 3]}, *others, "drift.stop=false"
    )
    flags = verdicts.flags(SOURCE, "00000")
    assert (0, 0) not in flags
    assert flags[1, 0] == [SkillFlag.BOX_OUT_OF_RANGE.value, SkillFlag.NO_BOX.value]
    assert flags[2, 0] == [SkillFlag.NO_BOX.value]
    assert any("skills.grounding.annotations says nothing of corpus.pretrain" in note for note in notes)


@pytest.mark.parametrize(("share", "num_flagged"), [("null", 10), ("0", 0), ("0.2", 4)])
def test_a_skill_may_have_a_share_of_its_own(tmp_path: Path, share: str, num_flagged: int) -> None:
    def texts(shard: str, row: int, variant: int) -> dict[str, Any]:
        return {"text": "a cat [10,20,300,400] sits.", "min_logprob": -float(row)}

    others = ("skills.grounding.annotations=/boxes", "skills.grounding.images=/other/pictures", "drift.stop=false")
    own = f"skills.grounding.drop_lowest_min_logprob_share={share}"
    _, verdicts, _ = judged(tmp_path, "grounding", texts, *others, "filters.drop_lowest_min_logprob_share=0.5", own)
    found = verdicts.flags(SOURCE, "00000")
    assert set(found) == {(row, 0) for row in range(20 - num_flagged, 20)}
    assert {flag for flags in found.values() for flag in flags} <= {"low_min_logprob"}


def test_a_check_opens_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ExpertChoice, "open", lambda _: pytest.fail("opened"))
    config = begin(tmp_path, "specialists=[ocr]")
    check = open_check(config, "ocr")
    assert isinstance(check, SkillCheck)
