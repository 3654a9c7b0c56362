"""A checkpoint's benchmarks through an engine: asked once, scored, written, resumed; user's scorers; what fails."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.evaluate.published.folders import opened, picture, write_lines
from vila2_ray.config import BenchmarkConfig, Config, EvaluateConfig, JudgeConfig
from vila2_ray.engines.base import Engine, GenerationRequest
from vila2_ray.engines.fake import FakeBehaviour, FakeEngine
from vila2_ray.errors import ConfigError, CorpusError, StageFailed
from vila2_ray.evaluate.judging import CommandJudge
from vila2_ray.evaluate.suite import Suite, read_result, read_results, sentence
from vila2_ray.storage import Store


class Asked:
    """Opens engines and keeps what they were asked."""

    def __init__(self, **behaviour: object) -> None:
        self.requests: list[GenerationRequest] = []
        self.num_opened = 0
        self._behaviour = FakeBehaviour(**behaviour)  # type: ignore[arg-type]

    def __call__(self) -> Engine:
        self.num_opened += 1
        engine, add = FakeEngine(batch_size=3, behaviour=self._behaviour), FakeEngine.add

        def noted(request: GenerationRequest) -> None:
            self.requests.append(request)
            add(engine, request)

        engine.add = noted  # type: ignore[method-assign]
        return engine


def write_own(folder: Path, count: int = 6) -> BenchmarkConfig:
    """Two questions about each of three pictures, not in the pictures' order; the fake is always wrong."""
    picture(folder / "images", "0.png", "1.png", "2.png")
    rows = [
        {"id": n, "image": f"{n % 3}.png", "question": f"asked {n}", "answers": ["right"], "group": f"g{n % 2}"}
        for n in range(count)
    ]
    write_lines(folder, "questions.jsonl", rows)
    return BenchmarkConfig(kind="own", path=str(folder))


def suite(folder: Path, **benchmarks: BenchmarkConfig) -> Suite:
    return Suite(benchmarks, Store(folder / "out"), "abc")


def test_answers_are_scored_and_written(tmp_path: Path) -> None:
    config, asked = write_own(tmp_path), Asked()
    found = suite(tmp_path, mine=config).ask(asked)["mine"]
    assert (found.main, found.scores["accuracy"], found.num_items, found.num_failed) == ("accuracy", 0.0, 6, 0)
    assert found.intervals["accuracy"] == (0.0, 0.0)
    assert (found.engine, found.checkpoint) == ("fake 1", "abc")
    table = Store(tmp_path / "out").read_table("mine.parquet").to_pylist()
    assert [row["id"] for row in table] == [str(n) for n in range(6)]
    assert all(f"asked {row['id']}" in row["said"] for row in table)
    assert read_result(Store(tmp_path / "out"), "mine") == found
    json.loads((tmp_path / "out/mine.json").read_text(), parse_constant=pytest.fail)
    # questions about one picture follow each other, and show the very same one
    names = [request.image_key for request in asked.requests]
    assert names == sorted(names)
    assert len({id(request.image) for request in asked.requests}) == 3


def test_what_is_there_is_not_asked_again(tmp_path: Path) -> None:
    config, asked = write_own(tmp_path), Asked()
    first = suite(tmp_path, mine=config).ask(asked)
    assert suite(tmp_path, mine=replace(config, max_missing_share=0.5)).ask(asked) == first
    assert asked.num_opened == 1
    suite(tmp_path, mine=replace(config, max_items=3)).ask(asked)
    write_own(tmp_path, count=5)
    assert suite(tmp_path, mine=config).ask(asked)["mine"].num_items == 5
    assert replace(suite(tmp_path, mine=config), checkpoint="other").ask(asked)["mine"].checkpoint == "other"
    assert asked.num_opened == 4
    (tmp_path / "out/mine.json").write_text("{}")  # of another version
    suite(tmp_path, mine=config).ask(asked)
    assert asked.num_opened == 5


def test_one_finished_benchmark_stays_when_the_next_fails(tmp_path: Path) -> None:
    config, asked = write_own(tmp_path), Asked()
    broken = BenchmarkConfig(kind="pope", path=str(tmp_path / "nothing"))
    with pytest.raises(CorpusError, match="coco_pope_random"):
        suite(tmp_path, mine=config, pope=broken).ask(asked)
    suite(tmp_path, mine=config).ask(asked)
    assert asked.num_opened == 1


def test_what_the_engine_fails_on_is_wrong_and_counted(tmp_path: Path) -> None:
    config = write_own(tmp_path)
    name = opened(tmp_path, "own").items[0].pictures[0].name
    found = suite(tmp_path, mine=config).ask(Asked(fail_image_keys=(name,)))["mine"]
    assert (found.num_items, found.num_failed) == (6, 2)
    assert "2 without an answer" in sentence(found)
    assert Store(tmp_path / "out").read_table("mine.parquet")["said"].null_count == 2


def test_a_picture_that_cannot_be_decoded_counts_as_missing(tmp_path: Path) -> None:
    config = write_own(tmp_path)
    (tmp_path / "images/1.png").write_bytes(b"no picture")
    with pytest.raises(CorpusError, match=r"2 of 6 questions.*image_type"):
        suite(tmp_path, mine=config).ask(Asked())
    found = suite(tmp_path, mine=replace(config, max_missing_share=0.5)).ask(Asked())["mine"]
    assert (found.num_items, found.num_missing) == (4, 2)
    assert "2 left out for want of a picture" in sentence(found)


SCORER = """
import json, sys
checkpoint, data, out = sys.argv[1:]
scores = {"cider": 1.25, "of": len(checkpoint)}
json.dump({"scores": scores, "intervals": {"cider": [1.0, 1.5]}}, open(out, "w"))
"""


def command(code: str, *words: str, **settings: object) -> BenchmarkConfig:
    return BenchmarkConfig(kind="command", command=(sys.executable, "-c", code, *words), **settings)  # type: ignore[arg-type]


def test_a_scorer_of_ones_own(tmp_path: Path) -> None:
    mine = suite(tmp_path, mine=command(SCORER, "{checkpoint}", "{data}", "{out}"))
    assert mine.ask(Asked()) == {}
    found = mine.run_commands(tmp_path)["mine"]
    assert found.scores == {"cider": 1.25, "of": len(str(tmp_path))}
    assert (found.main, found.intervals) == ("cider", {"cider": (1.0, 1.5)})
    assert mine.run_commands(tmp_path)["mine"] == found == read_results(Store(tmp_path))["out"]["mine"]


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("", r"wrote no scores \(FileNotFoundError\)"),
        ("import sys; open(sys.argv[1], 'w').write('{}')", "wrote no scores"),
        ("import sys; open(sys.argv[1], 'w').write('{\"scores\": {\"a\": NaN}}')", "wrote no scores"),
        ("import sys; sys.exit('no such model')", "exit code 1: no such model"),
        ("import time; time.sleep(60)", "took more than 0.5 s: raise timeout_seconds"),
    ],
)
def test_a_scorer_that_fails_is_told_without_its_words(code: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=told) as raised:
        suite(
            tmp_path, mine=command(code, "{out}", "--key=secret", timeout_seconds=0.5 if "60" in code else 60)
        ).run_commands(tmp_path)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("said", "told"), [("fine", "said 'fine'"), ("2", "a number from 0 to 1"), ("nan", "said 'nan'")]
)
def test_a_judge_says_a_number(said: str, told: str) -> None:
    with pytest.raises(StageFailed, match=told):
        CommandJudge(("echo", said), 60)("Who?", "Ada", "Bob")
    assert CommandJudge(("echo", "score: 0.25"), 60)("Who?", "Ada", "Bob") == 0.25
    with pytest.raises(StageFailed, match="cannot be started"):
        CommandJudge(("no-such-judge",), 60)("Who?", "Ada", "Bob")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (BenchmarkConfig(kind="pope"), r"b.path = ''.*folder in which pope lies"),
        (BenchmarkConfig(kind="command"), r"b.command.*your scorer"),
        (BenchmarkConfig(kind="pope", path="x", command=("y",)), r"takes no command"),
        (BenchmarkConfig(kind="pope", path="x", max_items=-1), r"b.max_items"),
        (BenchmarkConfig(kind="pope", path="x", max_missing_share=2), r"b.max_missing_share"),
        (BenchmarkConfig(kind="pope", path="x", timeout_seconds=0), r"b.timeout_seconds"),
    ],
)
def test_a_benchmark_that_cannot_work_is_refused(config: BenchmarkConfig, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        config.check("b")


def test_open_answers_need_a_judge() -> None:
    config = BenchmarkConfig(kind="mmvet", path="x")
    with pytest.raises(ConfigError, match=r"b.command.*the judge.*judge\.endpoint"):
        config.check_judge("b", has_endpoint=False)
    config.check_judge("b", has_endpoint=True)
    replace(config, command=("mine",)).check_judge("b", has_endpoint=False)
    with pytest.raises(ConfigError, match=r"evaluate.benchmarks.b.command"):
        Config(evaluate=EvaluateConfig(benchmarks={"b": config}))
    Config(evaluate=EvaluateConfig(benchmarks={"b": config}), judge=JudgeConfig(endpoint="http://127.0.0.1:1/v1"))
