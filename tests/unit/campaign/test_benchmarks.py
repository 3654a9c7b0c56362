"""Benchmarks in a campaign: what they decide, what they invalidate, and that they are asked through the same engine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from tests.unit.campaign.folders import begin, finish
from tests.unit.campaign.layers import write_corpus
from tests.unit.evaluate.published.folders import picture, write_lines
from vila2_ray.campaign import plan as plans
from vila2_ray.campaign import scoring
from vila2_ray.campaign.api import Campaign
from vila2_ray.campaign.inputs import observe
from vila2_ray.campaign.saturation import decide
from vila2_ray.campaign.scoring import Examination, _charged, _results, _suite
from vila2_ray.campaign.stages import WORK
from vila2_ray.campaign.state import Marker, read_main_scores, read_markers, read_round_scores, write_marker
from vila2_ray.config import Config, EngineConfig
from vila2_ray.errors import ConfigError, StageFailed
from vila2_ray.evaluate.suite import Result
from vila2_ray.raytasks import MAX_RETRIES
from vila2_ray.recipe import from_yaml, load_config, to_yaml
from vila2_ray.storage import Store

POPE = ("evaluate.benchmarks.pope.kind=pope", "evaluate.benchmarks.pope.path=/data/pope")
OWN = ("evaluate.benchmarks.mine.kind=own", "evaluate.benchmarks.mine.path=/data/mine")
BY_POPE = (*POPE, "rounds.metric=pope.f1")


def fields(stage: str, *overrides: str) -> dict[str, Any]:
    config = load_config("tiny", list(overrides))
    return plans.fields_of(next(each for each in plans.stages(config) if each.name == stage), config)


def test_only_what_decides_enters_fingerprints() -> None:
    assert fields("evaluate-0", *POPE, *OWN) == fields("evaluate-0")
    decided = set(fields("evaluate-0", *BY_POPE, *OWN)) - set(fields("evaluate-0"))
    assert {name.rpartition(".")[0] for name in decided} == {"evaluate.benchmarks.pope"}
    assert "evaluate.benchmarks.pope.path" not in decided
    assert set(fields("evaluate-final", *BY_POPE)) - set(fields("evaluate-final")) == decided
    assert fields("evaluate-ocr", *BY_POPE) == fields("evaluate-ocr")


def test_benchmarks_come_back_from_yaml() -> None:
    config = load_config("tiny", [*BY_POPE, *OWN, "evaluate.benchmarks.mine.command=[python,judge.py]"])
    assert from_yaml(to_yaml(config)) == config
    assert config.evaluate.benchmarks["mine"].command == ("python", "judge.py")


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["rounds.metric=pope.f1"], r"rounds.metric = 'pope.f1': no such benchmark.*none yet"),
        ([*OWN, "rounds.metric=pope.f1"], r"are mine"),
        (["evaluate.benchmarks.pope.kind=pope"], r"evaluate.benchmarks.pope.path"),
        (["evaluate.benchmarks.Pope.kind=pope"], r"small letters"),
        (["evaluate.benchmarks.pope.kind=popes"], r"evaluate.benchmarks.pope.kind"),
        (["promote=never"], r"promote"),
    ],
)
def test_mistakes_are_told_by_name(overrides: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_config("tiny", overrides)


def result(f1: float, data: str = "d") -> dict[str, Any]:
    return {"main": "f1", "scores": {"f1": f1, "recall": 0.5}, "intervals": {}, "data": data}


def scored(folder: Path, *f1: float) -> Config:
    """A campaign whose rounds get worse by captions and better by POPE."""
    config = begin(folder, *BY_POPE)
    finish(config, "index", "align")
    for k, value in enumerate(f1):
        finish(config, f"pretrain-{k}", f"sft-{k}", f"evaluate-{k}")
        store = Store(config.campaign)
        marker = read_markers(store)[f"evaluate-{k}"]
        summary = {"scores": {"object_f1": 0.9 - 0.1 * k}, "benchmarks": {"pope": result(value)}, "source": "heldout"}
        write_marker(store, replace(marker, summary=summary))
    return config


def test_a_benchmark_decides_when_rounds_end_and_which_is_best(tmp_path: Path) -> None:
    config = scored(tmp_path, 0.7, 0.8)
    markers = Campaign(str(tmp_path)).markers()
    assert read_round_scores(markers)[1] == {"object_f1": 0.8, "pope.f1": 0.8, "pope.recall": 0.5}
    decision = decide(read_round_scores(markers), config.rounds)
    assert (decision.best, decision.stop_after, decision.metric) == (1, None, "pope.f1")
    assert decide(read_round_scores(markers), replace(config.rounds, metric="auto")).best == 0
    scored(tmp_path, 0.7, 0.8, 0.75)
    assert decide(read_round_scores(Campaign(str(tmp_path)).markers()), config.rounds).stop_after == 2
    assert observe(Campaign(str(tmp_path))).best_round == 1


def test_of_each_benchmark_the_main_score_is_shown(tmp_path: Path) -> None:
    scored(tmp_path, 0.7)
    (entry,) = Campaign(str(tmp_path)).scores()
    assert entry == {"round": 0, "model": "vlm-0", "object_f1": 0.9, "pope.f1": 0.7}
    markers = Campaign(str(tmp_path)).markers()
    assert "pope.recall" in read_main_scores(markers, "pope.recall")[0]


def test_lower_is_better_for_made_up_objects() -> None:
    rounds = load_config("tiny", ["evaluate.benchmarks.c.kind=chair", "evaluate.benchmarks.c.path=x"]).rounds
    history = [{"c.chair_i": 0.3}, {"c.chair_i": 0.2}]
    assert decide(history, replace(rounds, metric="c.chair_i")).best == 1


def test_an_examination_asks_benchmarks_through_its_engine(tmp_path: Path) -> None:
    picture(tmp_path / "own/images", "0.png")
    write_lines(tmp_path / "own", "questions.jsonl", [{"image": "0.png", "question": "What?", "answers": ["a cat"]}])
    writes = "import sys; open(sys.argv[1], 'w').write('{\"scores\": {\"x\": 1}}')"
    scorer = json.dumps(["python", "-c", writes, "{out}"])
    config = begin(
        tmp_path / "campaign",
        "evaluate.benchmarks.mine.kind=own",
        f"evaluate.benchmarks.mine.path={tmp_path / 'own'}",
        "evaluate.benchmarks.theirs.kind=command",
        f"evaluate.benchmarks.theirs.command={scorer}",
    )
    finish(config, "index", "align", "pretrain-0", "sft-0")
    run = observe(Campaign(config.campaign))
    stage = next(each for each in plans.stages(config) if each.name == "evaluate-0")
    suite = _suite(run, stage)
    assert suite is not None
    fake = EngineConfig(name="fake")
    folder = tmp_path / "weights"
    folder.mkdir()
    examination = Examination(None, config.evaluate, run.prompts, fake, {}, general=False, suite=suite)  # type: ignore[arg-type]
    assert examination(str(folder)) == (None, {})
    found = _results(run, stage, suite)
    assert {name: each.scores for name, each in found.items()} == {"mine": {"accuracy": 0.0}, "theirs": {"x": 1.0}}
    assert {each.checkpoint for each in found.values()} == {"digest of sft-0"}
    assert set(Campaign(config.campaign).benchmarks()) == {"vlm-0"}


class InProcess:
    """Ray's task of an evaluate stage, without a cluster: what goes in and out is pickled, as it is there."""

    def __init__(self, function: Any) -> None:
        self._function = function

    def remote(self, *given: Any) -> Any:
        return cloudpickle.loads(cloudpickle.dumps(self._function(*cloudpickle.loads(cloudpickle.dumps(given)))))


def test_an_evaluate_stage_asks_held_out_samples_and_benchmarks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(ray, "remote", lambda **options: (asked.append(options), InProcess)[1])
    monkeypatch.setattr(scoring, "connect_ray", lambda: None)
    monkeypatch.setattr(scoring, "outcome", lambda found: found)
    write_corpus(tmp_path / "heldout", [3])
    picture(tmp_path / "own/images", "0.png")
    write_lines(tmp_path / "own", "questions.jsonl", [{"image": "0.png", "question": "What?", "answers": ["a cat"]}])
    config = begin(
        tmp_path / "campaign",
        f"corpus.heldout={tmp_path}/heldout/shards",
        "recaption.engine.name=fake",
        "evaluate.benchmarks.mine.kind=own",
        f"evaluate.benchmarks.mine.path={tmp_path / 'own'}",
        "rounds.metric=mine.accuracy",
    )
    finish(config, "index", "align", "pretrain-0", "sft-0")
    Store(config.campaign).write_text("checkpoints/vlm-0/sft/config.json", "{}")
    run = observe(Campaign(config.campaign))
    stage = next(each for each in plans.stages(config) if each.name == "evaluate-0")
    done = WORK["evaluate"](run, stage, "f" * 64)
    assert done.summary["benchmarks"]["mine"]["scores"] == {"accuracy": 0.0}
    assert done.summary["source"] == "heldout"
    assert [options["max_retries"] for options in asked] == [MAX_RETRIES]
    assert run.layout.store.num_rows(run.layout.evaluation("vlm-0")) == 3
    again = WORK["evaluate"](run, stage, "f" * 64)
    assert again.digest == done.digest
    marker = Marker("evaluate-0", "f" * 64, {}, {}, done.digest, 1, summary=done.summary)
    assert read_round_scores({"evaluate-0": marker})[0]["mine.accuracy"] == 0.0


def test_rounds_are_not_compared_by_files_that_have_changed(tmp_path: Path) -> None:
    config = scored(tmp_path, 0.7)
    finish(config, "pretrain-1", "sft-1")
    run = observe(Campaign(str(tmp_path)))
    stage = next(each for each in plans.stages(config) if each.name == "evaluate-1")
    suite = _suite(run, stage)
    told = {"name": "pope", "kind": "pope", "num_items": 3, **result(0.9, data="changed")}
    run.layout.benchmarks("vlm-1").write_text("pope.json", json.dumps(told))
    with pytest.raises(StageFailed, match=r"evaluate-1: the files of pope have changed.*--from evaluate-0"):
        _results(run, stage, suite)


def test_rounds_are_not_compared_by_another_judge(tmp_path: Path) -> None:
    config = scored(tmp_path, 0.7)
    finish(config, "pretrain-1", "sft-1")
    run = observe(Campaign(str(tmp_path)))
    stage = next(each for each in plans.stages(config) if each.name == "evaluate-1")
    told = {"name": "pope", "kind": "pope", "num_items": 3, **result(0.9), "judge": "big-vlm"}
    run.layout.benchmarks("vlm-1").write_text("pope.json", json.dumps(told))
    with pytest.raises(StageFailed, match=r"evaluate-1: another model judges pope.*--from evaluate-0"):
        _results(run, stage, _suite(run, stage))


def test_judges_are_paid_for_what_they_judged_now() -> None:
    known, new = (Result("a", "mmvet", "score", {"score": x}, charged_dollars=0.5) for x in (0.1, 0.2))
    assert _charged({"a": None, "b": new}, {"a": known, "b": new}) == 0.5
    assert _charged({"a": known}, {"a": new}) == 0.5
    assert _charged({"a": known}, {"a": known}) == 0.0
