"""Open answers scored by a model: MM-Vet through a real server, its words and what they cost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.evaluate.published.folders import picture, write_json
from tests.unit.judge.models import Asked, Model, error, serving
from vila2_ray.config import BenchmarkConfig, JudgeConfig
from vila2_ray.engines.fake import FakeEngine
from vila2_ray.errors import ConfigError, StageFailed
from vila2_ray.evaluate.suite import Result, Suite, sentence
from vila2_ray.judge.openanswers import EndpointJudge
from vila2_ray.storage import Store


def by_truth(asked: Asked) -> str:
    """Right where the given answer has the right one in it."""
    return f'{{"score": {0.5 + 0.5 * (asked.shown("right answer") in asked.shown("given answer"))}}}'


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with serving(by_truth) as made:
        yield made


@pytest.fixture(autouse=True)
def _forget(model: Model) -> None:
    model.say, model.models = by_truth, [{"id": "org/judge-7b"}]
    model.asked.clear()


def test_answers_keep_their_scores(model: Model) -> None:
    judge = EndpointJudge(model.config(dollars_per_million_input_tokens=1.0))
    asked = [(f"What is {n}?", str(n), f"it is {n * (n % 2)}") for n in range(20)]
    assert judge.score(asked) == [1.0 if n % 2 or n == 0 else 0.5 for n in range(20)]
    assert (judge.model, judge.input_tokens, judge.output_tokens) == ("org/judge-7b", 2000, 200)
    assert judge.dollars == pytest.approx(0.002)
    assert model.asked[0].body["messages"][0]["content"] == model.asked[0].text, "no picture"
    assert judge.score([]) == []


def test_a_few_answers_without_a_score_are_wrong_and_many_are_too_many(model: Model) -> None:
    asked = [("What?", "x", f"no. {n};") for n in range(20)]

    def silent_on(*numbers: int) -> Any:
        return lambda each: "?" if any(f"no. {n};" in each.text for n in numbers) else '{"score": 1}'

    model.say = silent_on(7)
    assert EndpointJudge(model.config()).score(asked) == [1.0] * 7 + [0.0] + [1.0] * 12
    model.say = silent_on(3, 7)
    with pytest.raises(StageFailed, match="2 of 20 answers no score; for one, the answer has no JSON object"):
        EndpointJudge(model.config()).score(asked)
    model.say = lambda each: error(400, "flagged")
    with pytest.raises(StageFailed, match="refused: flagged"):
        EndpointJudge(model.config()).score(asked)


@pytest.mark.parametrize(("status", "kind"), [(401, ConfigError), (500, StageFailed)])
def test_what_fails_first_is_asked_no_further(model: Model, status: int, kind: type[Exception]) -> None:
    model.say = lambda each: error(status)
    with pytest.raises(kind):
        EndpointJudge(model.config(max_retries=0)).score([("What?", "x", "y")] * 50)
    assert len(model.asked) == 1


def mm_vet(folder: Path) -> BenchmarkConfig:
    entry = {"imagename": "v1_0.png", "imagesource": "x", "capability": ["rec"]}
    asked = {
        f"v1_{n}": {**entry, "question": f"Who is {n}?", "answer": truth} for n, truth in enumerate(("Ada", "the"))
    }
    write_json(folder, "mm-vet.json", asked)
    picture(folder / "images", "v1_0.png")
    return BenchmarkConfig(kind="mmvet", path=str(folder))


def test_mm_vet_goes_by_the_endpoint(model: Model, tmp_path: Path) -> None:
    config = mm_vet(tmp_path)

    def result(**settings: Any) -> Result:
        judge = model.config(dollars_per_million_output_tokens=100.0, **settings)
        suite = Suite({"vet": config}, Store(tmp_path / "out"), "abc", judge=judge)
        return suite.ask(lambda: FakeEngine(batch_size=2))["vet"]

    found = result()
    assert found.scores["score"] == 0.5, "the fake names neither"
    assert (found.judge, found.charged_dollars) == ("org/judge-7b", pytest.approx(0.002))
    assert sentence(found).endswith("2 questions, judged by org/judge-7b for $0.0020")
    assert [each.shown("question") for each in model.asked] == ["Who is 0?", "Who is 1?"]
    assert result() == found
    assert len(model.asked) == 2, "not asked again"
    assert result(model="another").judge == "another"
    assert len(model.asked) == 4, "another judge is another benchmark"


def test_a_judge_that_cannot_be_had_is_told_before_the_model_is_asked(model: Model, tmp_path: Path) -> None:
    config = mm_vet(tmp_path)

    def ask(judge: JudgeConfig) -> None:
        Suite({"vet": config}, Store(tmp_path / "out"), "abc", judge=judge).ask(lambda: pytest.fail("an engine opened"))

    with pytest.raises(StageFailed, match="cannot be reached"):
        ask(JudgeConfig(endpoint="http://127.0.0.1:9/v1", model="m", max_retries=0))
    with pytest.raises(ConfigError, match=r"judge\.key.*not set"):
        ask(model.config(key="NO_SUCH_KEY"))
    model.models.append({"id": "another"})
    with pytest.raises(ConfigError, match=r"judge\.model"):
        ask(model.config())
