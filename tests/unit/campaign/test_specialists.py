"""Specialists in a campaign: which stages run, what is read of the best round, who is kept, what is promoted.

The stages' own work is replaced by what it would leave; that they do it is tested in tests/e2e.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.campaign.folders import begin
from tests.unit.campaign.test_runner import indexed_campaign
from vila2_ray.campaign import plan as plans
from vila2_ray.campaign import runner, stages
from vila2_ray.campaign.api import Campaign
from vila2_ray.campaign.garbage import find_garbage
from vila2_ray.campaign.inputs import observe
from vila2_ray.campaign.promotion import read_promoted
from vila2_ray.campaign.retry import find_layers
from vila2_ray.campaign.runner import run
from vila2_ray.campaign.specialists import final_is_needed, kept_skills
from vila2_ray.campaign.stages import WORK, Done
from vila2_ray.campaign.view import Run
from vila2_ray.config import Config
from vila2_ray.errors import CorpusError, FingerprintError, StageFailed
from vila2_ray.recipe import load_config
from vila2_ray.storage import Store
from vila2_ray.train import trainer
from vila2_ray.train.job import TrainingJob

SPECIALISTS = ("build-ocr", "sft-ocr", "evaluate-ocr", "recaption-ocr", "filter-ocr")
FINAL = ("pretrain-final", "sft-final", "evaluate-final")
Work = Callable[[Run, plans.Stage, str], Done]


class Stopped(Exception):
    """What a killed driver leaves: the stage's work, perhaps, but no marker."""


def general(stage: plans.Stage) -> dict[str, float]:
    """The rounds gain, and round 2 is the best of them; the final model loses a little."""
    return {"object_f1": {"0": 0.1, "1": 0.3, "2": 0.5, "3": 0.4, "final": 0.495}.get(stage.about, 0.2)}


class Rehearsal:
    """Stands in for the work of all stages but index and promote."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, beats: bool = True) -> None:
        self.ran: list[str] = []
        self.read: dict[str, Any] = {}
        self.stop_at = ""
        self.beats = beats
        made: dict[str, Work] = {kind: self for kind in WORK if kind not in ("index", "promote")}
        left_out: dict[str, Work] = {kind: self._perhaps(kind) for kind in ("recaption", "filter")}
        monkeypatch.setattr(runner, "WORK", {**WORK, **made, **left_out})

    def __call__(self, run: Run, stage: plans.Stage, fingerprint: str) -> Done:
        self.ran.append(stage.name)
        if stage.name == self.stop_at:
            raise Stopped
        summary: dict[str, Any] = {"num_samples": 7}
        if stage.kind == "evaluate":
            summary = {"scores": general(stage), "model": stage.model, "source": "heldout"}
        if stage.kind == "evaluate" and stage.specialist:
            summary |= {"skill": {"word_accuracy": 0.9}, "generalist": {"word_accuracy": 0.4}, "beside": "vlm-2"}
            summary |= {"metric": "word_accuracy", "beats": self.beats, "reason": "it is said here"}
        if stage.name == "evaluate-final":
            summary["skills"] = {"ocr": {"word_accuracy": 0.8}}
        if stage.name == "pretrain-final":
            self.read["layers"] = plans.best_layer(run.config, run.best_round)
            self.read["specialists"] = kept_skills(run.config, run.markers)
        return Done(f"digest of {stage.name} {fingerprint[:8]}", summary, 1.0)

    def _perhaps(self, kind: str) -> Work:
        def work(run: Run, stage: plans.Stage, fingerprint: str) -> Done:
            if stage.specialist and not self.beats:
                self.ran.append(stage.name)
                return WORK[kind](run, stage, fingerprint)
            return self(run, stage, fingerprint)

        return work


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    indexed_campaign(tmp_path)
    return tmp_path


def config(folder: Path, *more: str) -> Config:
    corpora = [f"corpus.{source}={folder / 'shards'}" for source in ("pretrain", "sft", "heldout")]
    return load_config("", [f"campaign={folder / 'campaign'}", *corpora, "base.checkpoint=recipe:tiny", *more])


ROUNDS = ("rounds.max=3", "rounds.min_gain=0")
OCR = (*ROUNDS, "specialists=[ocr]")


def test_the_final_model_learns_from_the_best_round_and_the_specialist(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Rehearsal(monkeypatch)
    outcome = run(config(folder, *OCR))
    later = work.ran[work.ran.index("evaluate-3") + 1 :]
    assert later == [*SPECIALISTS, *FINAL, "report", "export"]
    assert work.read == {"layers": "round-2", "specialists": ["ocr"]}
    markers = Campaign(str(folder / "campaign")).markers()
    assert set(markers["sft-ocr"].inputs) == {"pretrain-2", "build-ocr"}
    assert set(markers["evaluate-ocr"].inputs) == {"sft-2", "sft-ocr", "corpus:heldout"}
    assert markers["recaption-ocr"].inputs["evaluate-ocr"] == "beats True"
    assert {"filter-2", "recaption-ocr", "filter-ocr", "align"} <= set(markers["pretrain-final"].inputs)
    assert outcome.promoted is not None
    assert outcome.promoted["model"] == "vlm-final"
    assert outcome.promoted["checkpoint"] == "checkpoints/vlm-final/sft"
    assert run(config(folder, *OCR)).ran == []
    assert {row.state for row in Campaign(str(folder / "campaign")).status()} == {"done"}


def test_resuming_after_any_stage_does_nothing_twice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Rehearsal(monkeypatch)
    for name in (*SPECIALISTS, *FINAL):
        work.stop_at = name
        with pytest.raises(Stopped):
            run(config(folder, *OCR))
    work.stop_at = ""
    run(config(folder, *OCR))
    counts = {name: work.ran.count(name) for name in dict.fromkeys(work.ran)}
    assert {name for name, count in counts.items() if count > 1} == {*SPECIALISTS, *FINAL}
    assert all(counts[name] == 2 for name in (*SPECIALISTS, *FINAL)), "once stopped, once done"


def test_specialists_that_are_asked_for_later_redo_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Rehearsal(monkeypatch)
    run(config(folder, *ROUNDS))
    assert not {*SPECIALISTS, *FINAL} & set(work.ran)
    work.ran.clear()
    run(config(folder, *OCR))
    assert work.ran == [*SPECIALISTS, *FINAL, "report", "export"]


def test_a_specialist_that_is_no_better_captions_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Rehearsal(monkeypatch, beats=False)
    outcome = run(config(folder, *OCR))
    assert not set(FINAL) & set(work.ran)
    campaign = Campaign(str(folder / "campaign"))
    markers = campaign.markers()
    for name in ("recaption-ocr", "filter-ocr"):
        assert markers[name].summary == {"left_out": True, "reason": "it is said here"}
    states = {row.name: row.state for row in campaign.status()}
    assert {states[name] for name in ("recaption-ocr", "filter-ocr")} == {"left out"}
    assert {states[name] for name in FINAL} == {"not needed"}
    assert final_is_needed(campaign.config, markers) is False
    assert campaign.layers() == ["round-1", "round-2", "round-3"]
    assert [place.name for place in find_layers(campaign.uri)] == ["round-1", "round-2", "round-3"]
    with pytest.raises(CorpusError, match="no finished layer 'ocr'"):
        campaign.layer("ocr")
    assert outcome.promoted is not None
    assert outcome.promoted["model"] == "vlm-2"
    (told,) = campaign.specialists()
    assert (told["beats"], told["scores"]) == (False, {"word_accuracy": 0.9})
    assert campaign.final_scores() is None
    assert run(config(folder, *OCR)).ran == []
    monkeypatch.setattr(runner, "WORK", WORK)
    with pytest.raises(StageFailed, match="no specialist beats the generalist"):
        run(config(folder, *OCR), only="pretrain-final")


REHEARSED = (*OCR, "skills.rehearsal=0.25", "skills.turns=apart")


def test_the_final_sft_rehearses_what_specialists_answered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Rehearsal(monkeypatch)
    settings = config(folder, *REHEARSED)
    run(settings)
    campaign = Campaign(settings.campaign)
    markers = campaign.markers()
    assert set(markers["sft-final"].inputs) == {
        *("pretrain-final", "recaption-ocr", "filter-ocr"),
        *("corpus:sft", "corpus:pretrain"),
    }
    assert run(settings).ran == []
    jobs: list[TrainingJob] = []

    def train(job: TrainingJob, progress: Any) -> None:
        jobs.append(job)
        raise Stopped

    monkeypatch.setattr(trainer, "run_training", train)
    monkeypatch.setattr(stages, "connect_ray", lambda: None)
    for name in ("sft-final", "sft-2"):
        stage = next(stage for stage in plans.stages(settings) if stage.name == name)
        with pytest.raises(Stopped):
            WORK["sft"](observe(campaign), stage, "f" * 64)
    final, of_round = (job.sources for job in jobs)
    own, again = final
    assert (own.corpus.source, own.kind, own.apart) == ("sft", "chat", True)
    assert (again.corpus.source, again.kind, again.alt_text, again.layers) == ("pretrain", "pairs", False, [])
    assert again.share.weight == 0.25
    assert [skill for skill, _, _ in again.specialists] == ["ocr"]
    assert [(source.corpus.source, source.apart) for source in of_round] == [("sft", False)]


def test_a_rehearsal_that_is_added_later_redoes_the_final_sft_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Rehearsal(monkeypatch)
    run(config(folder, *OCR, "skills.turns=apart"))
    work.ran.clear()
    with pytest.raises(FingerprintError, match=r"skills.rehearsal was None, is 0.25(?s:.*)--from sft-final"):
        run(config(folder, *REHEARSED))
    run(config(folder, *REHEARSED), from_="sft-final")
    assert work.ran == ["sft-final", "evaluate-final", "report", "export"]


def test_a_final_model_that_loses_too_much_is_not_promoted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Rehearsal(monkeypatch)
    strict = config(folder, *OCR, "skills.max_general_loss=0.001")
    outcome = run(strict)
    assert outcome.promoted is not None
    assert outcome.promoted["model"] == "vlm-2"
    assert Campaign(strict.campaign).final_scores() == {
        "scores": {"object_f1": 0.495},
        "skills": {"ocr": {"word_accuracy": 0.8}},
    }


def test_saturated_rounds_are_skipped_and_specialists_are_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Rehearsal(monkeypatch)
    run(config(folder, "rounds.max=3", "rounds.min_gain=0.25", "specialists=[ocr]"))
    assert "recaption-2" not in work.ran
    assert work.ran[-len(FINAL) - 2 : -2] == list(FINAL)
    assert work.read["layers"] == "round-1"


def test_redoing_a_specialist_leaves_the_rounds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Rehearsal(monkeypatch)
    run(config(folder, *OCR))
    work.ran.clear()
    assert run(config(folder, *OCR), from_="evaluate-ocr").ran[0] == "evaluate-ocr"
    assert "sft-ocr" not in work.ran


def test_what_gc_keeps_of_specialists(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Rehearsal(monkeypatch)
    settings = config(folder, *OCR)
    run(settings, until="build-ocr")
    store, markers = Store(settings.campaign), Campaign(settings.campaign).markers()
    built = markers["build-ocr"].fingerprint[:8]
    names = [f"vlm-{k}/{stage}" for k in range(4) for stage in ("pretrain", "sft")]
    names += ["ocr/sft", "vlm-final/pretrain", "vlm-final/sft", "chess/sft"]
    for name in (
        *(f"checkpoints/{name}" for name in names),
        f"conversations/ocr/{built}",
        "conversations/ocr/0ld0ld00",
    ):
        store.write_bytes(f"{name}/file", b"12345")
    gone = {garbage.path for garbage in find_garbage(Campaign(settings.campaign))}
    kept_sft = {f"checkpoints/vlm-{k}/sft" for k in range(4)}
    assert not gone & kept_sft, "the generalist that is compared with is the best one, whichever that will be"
    assert gone == {"checkpoints/chess/sft", "conversations/ocr/0ld0ld00"}
    run(settings)
    gone = {garbage.path for garbage in find_garbage(Campaign(settings.campaign))}
    assert {"checkpoints/vlm-0/sft", "checkpoints/vlm-1/pretrain"} <= gone
    assert not gone & {f"checkpoints/{name}" for name in (*names[-4:-1], "vlm-2/pretrain", "vlm-2/sft", "vlm-3/sft")}
    assert f"conversations/ocr/{built}" not in gone


def test_a_layer_is_asked_for_in_its_skills_words(tmp_path: Path) -> None:
    worded = ("recaption.prompts.ocr=read!", "skills.ocr.prompt_ids=[ocr,ocr-plain]", "skills.ocr.max_tokens=9")
    begin(tmp_path, "rounds.max=1", "rounds.fraction=0.5", "specialists=[ocr]", "recaption.num_variants=3", *worded)
    work = observe(Campaign(str(tmp_path)))
    stages = {stage.name: stage for stage in plans.stages(work.config)}
    read, described = work.wording(stages["recaption-ocr"]), work.wording(stages["recaption-1"])
    assert (read.config.prompt_ids, read.config.num_variants, read.config.sampling.max_tokens) == (
        ("ocr", "ocr-plain"),
        1,
        9,
    )
    assert (read.plan_key, read.fraction) == ("0:ocr", 1.0)
    assert read.prompts.text("ocr") == work.config.recaption.prompts["ocr"]
    assert described.config == work.config.recaption
    assert (described.plan_key, described.fraction) == ("0:round-1", 0.5)


def test_promotion_has_the_best_round_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Rehearsal(monkeypatch)
    run(config(folder, *ROUNDS))
    run(config(folder, *OCR))
    history = read_promoted(Store(config(folder).campaign))["history"]
    assert [entry["model"] for entry in history] == ["vlm-2", "vlm-final"]
