"""Endpoints as they are: busy, broken, away, particular about what they take, and wordy."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.responses import PlainTextResponse

from tests.unit.judge.models import (
    CRITERIA,
    PICTURE,
    Asked,
    Model,
    completion,
    error,
    prefers,
    serving,
    verdict,
)
from vila2_ray.config import JudgeConfig
from vila2_ray.errors import ConfigError, StageFailed
from vila2_ray.judge.endpoint import Endpoint, Judged, Refused, Unanswered
from vila2_ray.judge.rubric import criteria
from vila2_ray.judge.verdict import Verdict, of_pair

ASK = of_pair(criteria(CRITERIA), "a cat", "a good cat", swapped=False)


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with serving(prefers("good")) as made:
        yield made


@pytest.fixture(autouse=True)
def _forget(model: Model) -> None:
    model.say, model.models = prefers("good"), [{"id": "org/judge-7b"}]
    model.asked.clear()


def judged(config: JudgeConfig, times: int = 1) -> Judged[Verdict]:
    async def ask() -> Judged[Verdict]:
        async with Endpoint(config) as endpoint:
            await endpoint.name()
            return [await endpoint.judge(ASK, PICTURE) for _ in range(times)][-1]

    return asyncio.run(ask())


def name(config: JudgeConfig) -> str:
    async def ask() -> str:
        async with Endpoint(config) as endpoint:
            return await endpoint.name()

    return asyncio.run(ask())


def in_turn(*said: Any) -> Any:
    """Says these one after the other, the last for ever."""
    left, lock = list(said), threading.Lock()

    def say(asked: Asked) -> Any:
        with lock:
            return left.pop(0) if len(left) > 1 else left[0]

    return say


def test_pictures_go_inline_and_tokens_come_back(model: Model) -> None:
    found = judged(model.config(temperature=0.0, max_tokens=77))
    assert found.read is not None
    assert found.read.answers == {"hallucination": "second", "overall": "second"}
    assert (found.problem, found.input_tokens, found.output_tokens) == ("", 100, 10)
    [asked] = model.asked
    assert asked.picture == PICTURE[0]
    assert asked.body["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    assert asked.body["model"] == "org/judge-7b"
    assert (asked.body["temperature"], asked.body["max_tokens"]) == (0.0, 77)
    form = asked.body["response_format"]
    assert (form["type"], form["json_schema"]["schema"]) == ("json_schema", ASK.schema)


def test_busy_and_broken_endpoints_are_asked_again(model: Model) -> None:
    model.say = in_turn(error(429, **{"Retry-After": "0.01"}), error(500), verdict("A"))
    assert judged(model.config()).read is not None
    assert len(model.asked) == 3


def test_retry_after_is_kept(model: Model) -> None:
    model.say = in_turn(error(429, **{"Retry-After": "1"}), verdict("A"))
    assert judged(model.config()).seconds >= 1.0


@pytest.mark.parametrize(("status", "told"), [(500, "says 500"), (429, "says 429"), (503, "says 503")])
def test_after_all_retries_it_has_given_no_answer(model: Model, status: int, told: str) -> None:
    model.say = in_turn(error(status, "out of order"))
    with pytest.raises(Unanswered, match=rf"{told}.*3 times: out of order"):
        judged(model.config())
    assert len(model.asked) == 3


def test_slow_answers_are_given_up(model: Model) -> None:
    over = threading.Event()

    def say(asked: Asked) -> str:
        over.wait(60)
        return verdict("A")

    model.say = say
    try:
        with pytest.raises(Unanswered, match=r"timeout_seconds=0\.2"):
            judged(model.config(timeout_seconds=0.2, max_retries=0))
    finally:
        over.set()


def test_nobody_there() -> None:
    with socket.socket() as bound:  # taken, and nobody listens
        bound.bind(("127.0.0.1", 0))
        config = JudgeConfig(endpoint=f"http://127.0.0.1:{bound.getsockname()[1]}/v1", model="m", max_retries=0)
        with pytest.raises(StageFailed, match="cannot be reached") as raised:
            judged(config)
    assert isinstance(raised.value, Unanswered)
    assert raised.value.is_away


@pytest.mark.parametrize("key", ["", "MY_KEY"])
def test_a_refused_key_is_told_at_once_and_never_shown(model: Model, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret")
    model.say = in_turn(error(401, "Incorrect API key: sk-secret"))
    with pytest.raises(ConfigError, match=r"judge\.key") as raised:
        judged(model.config(key=key))
    assert "sk-secret" not in str(raised.value)
    assert len(model.asked) == 1
    assert model.asked[0].authorization == ("Bearer sk-secret" if key else "Bearer none")


def test_a_key_is_never_shown_in_what_the_endpoint_says(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret")
    model.say = in_turn(error(500, "upstream refused sk-secret"))
    with pytest.raises(Unanswered, match="upstream refused …"):
        judged(model.config(key="MY_KEY", max_retries=0))


def test_without_its_variable_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"judge.key = 'MY_KEY': that environment variable is not set"):
        Endpoint(JudgeConfig(endpoint="http://127.0.0.1:1/v1", key="MY_KEY"))
    with pytest.raises(ConfigError, match=r"judge\.endpoint"):
        Endpoint(JudgeConfig())


def test_models_by_name(model: Model) -> None:
    assert name(model.config()) == "org/judge-7b"
    model.models = [{"id": "a"}, {"id": "b"}]
    with pytest.raises(ConfigError, match=r"which of the endpoint's models judges: a, b"):
        name(model.config())
    assert name(model.config(model="b")) == "b"
    model.models = [{"id": "promoted", "root": "vlm-2", "digest": "0123456789abcdef"}]
    assert name(model.config()) == "vlm-2@0123456789ab"
    assert name(model.config(model="promoted")) == "vlm-2@0123456789ab"


def test_an_unknown_model_is_told(model: Model) -> None:
    model.say = in_turn(error(404, "no model x"))
    with pytest.raises(ConfigError, match=r"judge.model = 'x'.*no model x"):
        judged(model.config(model="x"))
    assert len(model.asked) == 1


def test_a_refused_schema_is_left_out_from_then_on(model: Model) -> None:
    model.say = lambda asked: error(400) if "response_format" in asked.body else verdict("B")
    found = judged(model.config(), times=3)
    assert found.read is not None
    assert ["response_format" in each.body for each in model.asked] == [True, False, False, False]


@pytest.mark.parametrize("status", [400, 422])
def test_what_newer_models_do_not_take_is_left_out(model: Model, status: int) -> None:
    def say(asked: Asked) -> Any:
        for field in ("max_tokens", "temperature"):
            if field in asked.body:
                return error(status, f"unsupported {field}", field)
        return verdict("A")

    model.say = say
    assert judged(model.config(max_tokens=50)).read is not None
    assert model.asked[-1].body["max_completion_tokens"] == 50
    assert "response_format" in model.asked[-1].body


def test_a_question_that_is_refused_for_itself_changes_nothing_for_others(model: Model) -> None:
    model.say = in_turn(error(400, "bad picture"), error(400, "bad picture"), verdict("A"))

    async def ask() -> None:
        async with Endpoint(model.config(model="m")) as endpoint:
            with pytest.raises(Refused, match="bad picture"):
                await endpoint.judge(ASK, PICTURE)
            await endpoint.judge(ASK, PICTURE)

    asyncio.run(ask())
    assert ["response_format" in each.body for each in model.asked] == [True, False, True]


def test_what_cannot_be_read_is_asked_for_once_more(model: Model) -> None:
    model.say = in_turn("I like B.", verdict("B"))
    found = judged(model.config())
    assert found.read is not None
    assert (found.input_tokens, found.output_tokens) == (200, 20)
    assert model.asked[1].text.startswith(model.asked[0].text)
    assert model.asked[1].text.endswith("nothing else: no other words, no other keys.")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("I like B.", "no JSON object"),
        (completion(verdict("A"), "length"), "judge.max_tokens"),
        (completion(None), "no words"),
        (completion(verdict("A", overall="C"), usage=False), "overall = 'C'"),
    ],
)
def test_what_cannot_be_read_twice_is_a_problem(model: Model, said: Any, told: str) -> None:
    model.say = in_turn(said)
    found = judged(model.config())
    assert found.read is None
    assert told in found.problem
    assert len(model.asked) == 2


@pytest.mark.parametrize(
    "said", [PlainTextResponse("<html>welcome</html>"), PlainTextResponse("{", media_type="application/json")]
)
def test_another_kind_of_server_is_told(model: Model, said: Any) -> None:
    model.say = in_turn(said)
    with pytest.raises(Unanswered, match="is the address right"):
        judged(model.config())


def test_odd_answers_raise_nothing_unforeseen(model: Model) -> None:
    for body in (
        "{}",
        '{"choices": [{}], "usage": 7}',
        '{"choices": [{"message": {"content": 7}}]}',
        '{"choices": "x"}',
    ):
        model.say = in_turn(PlainTextResponse(body, media_type="application/json"))
        assert "no words" in judged(model.config()).problem
