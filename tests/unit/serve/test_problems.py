from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from tests.unit.serve.wire import asked
from vila2_ray.errors import EngineDied, NotReady, Overloaded, Reason, SampleError, UnknownModel
from vila2_ray.serve import problems
from vila2_ray.serve.problems import MEDIA_TYPE, Problem, openai_error, openai_status, problem_of, responses


class Wish(BaseModel):
    prompt: str = ""
    max_tokens: int = Field(default=1, le=10)


RAISED: dict[str, BaseException] = {}


def app() -> FastAPI:
    made = FastAPI()
    problems.install(made)

    @made.post("/v1/captions")
    async def captions(wish: Wish) -> dict[str, Any]:
        return {}

    @made.post("/v1/chat/completions")
    async def chat(wish: Wish) -> dict[str, Any]:
        return {}

    @made.get("/raise/{name}")
    async def raises(name: str) -> None:
        raise RAISED[name]

    return made


def post(path: str, body: bytes) -> Any:
    headers = {"content-type": "application/json"}
    return asyncio.run(asked(app(), "POST", path, headers, [body]))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (SampleError(Reason.IMAGE_TYPE, "none of them"), 415),
        (SampleError(Reason.IMAGE_TOO_LARGE, "9 × 9"), 413),
        (SampleError(Reason.IMAGE_UNREADABLE, "broken"), 422),
        (SampleError(Reason.NO_IMAGE, "none"), 422),
        (SampleError(Reason.ENGINE_ERROR, "too many tokens"), 422),
        (SampleError(Reason.ENGINE_DIED, "gone"), 503),
        (UnknownModel("x", ("promoted",)), 404),
        (NotReady("loading"), 503),
        (Overloaded("64 wait", 2.2), 429),
        (EngineDied("gone"), 503),
        (TimeoutError(), 504),
        (asyncio.TimeoutError(), 504),
        (HTTPException(405), 405),
        (HTTPException(599), 599),
        (RuntimeError("secret path /etc/x"), 500),
        (Problem(418, "teapot", "A teapot", "short and stout"), 418),
    ],
)
def test_every_error_has_a_status(error: BaseException, status: int) -> None:
    problem = problem_of(error)
    told = problem.body("r1")
    assert (problem.status, told["status"], told["instance"]) == (status, status, "r1")
    assert told["type"] == f"/problems/{problem.slug}"
    assert told["title"]
    assert told["detail"]
    assert "secret" not in json.dumps(told)


def test_who_is_to_come_again_is_told_when() -> None:
    assert problem_of(Overloaded("64 wait", 2.2)).headers == {"Retry-After": "3"}
    assert problem_of(Overloaded("64 wait", 0.0)).headers == {"Retry-After": "1"}
    assert all("Retry-After" in problem_of(error).headers for error in (NotReady("x"), EngineDied("x")))


def test_what_wraps_an_error_is_opened_and_never_told() -> None:
    class Wrapped(Exception):
        def __init__(self, cause: Exception) -> None:
            super().__init__("ray::Replica() File /home/me/replica.py line 3")
            self.cause = cause

    problem = problem_of(
        Wrapped(Wrapped(SampleError(Reason.IMAGE_UNREADABLE, "<_io.BytesIO object at 0x7f0b> is bad")))
    )
    assert (problem.status, problem.detail) == (422, "it is bad")
    assert problem_of(Wrapped(ValueError("/home/me"))).slug == "internal"


def test_an_error_met_while_another_was_handled_is_not_blamed_on_the_client() -> None:
    error = KeyError("ours")
    error.__context__ = SampleError(Reason.IMAGE_TYPE, "theirs")
    assert problem_of(error).status == 500


def test_a_wrong_field_is_named_with_its_value_and_what_would_be_right() -> None:
    answered = post("/v1/captions", json.dumps({"max_tokens": 11, "prompt": "x"}).encode())
    assert (answered.status, answered.headers["content-type"]) == (422, MEDIA_TYPE)
    assert answered.json["field"] == "max_tokens"
    assert answered.json["detail"] == "max_tokens = 11: Input should be less than or equal to 10"
    both = post("/v1/captions", b'{"max_tokens": "many", "prompt": 3}').json
    assert [one["field"] for one in both["errors"]] == ["prompt", "max_tokens"]
    assert "'many'" in both["detail"]


def test_long_values_and_half_surrogates_are_told_without_harm() -> None:
    answered = post("/v1/captions", b'{"max_tokens": "\\ud800' + b"a" * 1000 + b'"}')
    assert answered.status == 422
    assert len(answered.json["detail"]) < 200


@pytest.mark.parametrize("body", [b"{", b"", b"[1,", b"\xff\xfe", b'"' + b"a" * 100])
def test_bodies_that_are_no_json(body: bytes) -> None:
    answered = post("/v1/captions", body)
    assert answered.status in (400, 422)
    assert answered.headers["content-type"] == MEDIA_TYPE


def test_unknown_addresses_and_methods_are_problems_too() -> None:
    nowhere = asyncio.run(asked(app(), "GET", "/nowhere"))
    assert (nowhere.status, nowhere.headers["content-type"]) == (404, MEDIA_TYPE)
    wrong = asyncio.run(asked(app(), "GET", "/v1/captions"))
    assert (wrong.status, wrong.headers["allow"]) == (405, "POST")


def test_what_nobody_foresaw_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    async def raises(scope: Any) -> bytes:
        try:
            raise RuntimeError("host=db-3 password=x")
        except RuntimeError as error:
            return bytes(problems.answer(error, scope).body)

    with caplog.at_level(logging.ERROR, "vila2_ray.serve"):
        told = asyncio.run(raises({"path": "/v1/captions", "state": {"request_id": "r7"}}))
    assert b"password" not in told
    assert json.loads(told)["instance"] == "r7"
    assert "request r7 failed" in caplog.text
    assert "db-3" in caplog.text


def test_errors_of_ours_are_answered_from_a_route() -> None:
    RAISED["busy"] = Overloaded("64 wait already", 3)
    answered = asyncio.run(asked(app(), "GET", "/raise/busy"))
    assert (answered.status, answered.headers["retry-after"]) == (429, "3")


def test_routes_of_openai_speak_openai() -> None:
    answered = post("/v1/chat/completions", b'{"max_tokens": 11}')
    assert (answered.status, answered.headers["content-type"]) == (400, "application/json")
    assert answered.json["error"]["param"] == "max_tokens"
    assert set(answered.json["error"]) == {"message", "type", "param", "code"}
    unknown = problem_of(UnknownModel("x", ()))
    assert openai_error(unknown)["error"]["code"] == "model_not_found"
    assert openai_status(unknown) == 404
    assert openai_error(problem_of(Overloaded("x", 1)))["error"]["type"] == "rate_limit_error"
    assert openai_error(problem_of(RuntimeError()))["error"]["type"] == "server_error"


def test_a_problem_names_its_field_once() -> None:
    problem = Problem(422, "x", "X", "is odd").about("images[1].data")
    assert problem.about("image") is problem
    assert problem.body()["field"] == "images[1].data"
    assert problem.detail == "images[1].data: is odd"


def test_openapi_can_describe_them() -> None:
    described = responses(422, 503)
    assert set(described) == {422, 503}
    assert "title" in described[422]["content"][MEDIA_TYPE]["schema"]["properties"]
