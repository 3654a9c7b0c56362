from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.unit.serve.rawasgi import Call
from tests.unit.serve.scripted import PROMPTS, SETTINGS, ScriptedCaptioner, data_url, png, said_of, served
from vila2_ray.engines.live import Turn
from vila2_ray.serve.app import create_app

RED, GREEN = png("red"), png("green")
ROUTE = "/v1/chat/completions"
PICTURE = {"type": "image_url", "image_url": {"url": data_url(RED), "detail": "auto"}}


def said(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def user(*content: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def chat(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"model": "promoted", "messages": list(messages), **fields}


WHAT = chat(user(PICTURE, said("What?")))


def chunks(text: str) -> list[dict[str, Any]]:
    *found, done = [block.removeprefix("data: ") for block in text.split("\n\n") if block]
    assert done == "[DONE]"
    return [json.loads(one) for one in found]


def test_an_answer(client: TestClient) -> None:
    got = client.post(ROUTE, json=WHAT)
    answer = got.json()
    assert got.status_code == 200
    assert answer.pop("created") > 0
    assert answer.pop("id") == f"chatcmpl-{got.headers['X-Request-Id']}"
    assert answer == {
        "object": "chat.completion",
        "model": "promoted",
        "system_fingerprint": f"vlm-1@{served('promoted').digest[:12]}",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": said_of(RED, "What?"), "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 11, "completion_tokens": 6, "total_tokens": 17},
    }
    assert got.headers["X-Vila2-Checkpoint"] == answer["system_fingerprint"]


def test_a_stream(client: TestClient) -> None:
    got = client.post(ROUTE, json={**WHAT, "stream": True, "stream_options": {"include_usage": True}})
    assert got.headers["Content-Type"].startswith("text/event-stream")
    first, *middle, last, usage = chunks(got.text)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert "".join(one["choices"][0]["delta"]["content"] for one in middle) == said_of(RED, "What?")
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "stop")
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 17)
    assert {one["id"] for one in (first, *middle, last, usage)} == {first["id"]}
    assert first["object"] == "chat.completion.chunk"
    assert "usage" not in chunks(client.post(ROUTE, json={**WHAT, "stream": True}).text)[-1]


def test_conversations_pass_through(client: TestClient, captioner: ScriptedCaptioner) -> None:
    messages = (
        {"role": "developer", "content": "Be brief."},
        user(said("Look:"), PICTURE, said("What is it?")),
        {"role": "assistant", "content": [said("A cat.")]},
        {"role": "user", "content": "And"},
        {"role": "user", "content": "where?"},
    )
    assert client.post(ROUTE, json=chat(*messages)).status_code == 200
    assert captioner.questions[-1].turns == (
        Turn("system", "Be brief."),
        Turn("user", "Look:\nWhat is it?"),
        Turn("assistant", "A cat."),
        Turn("user", "And\nwhere?"),
    )


def test_a_picture_without_words_gets_the_default_prompt(client: TestClient, captioner: ScriptedCaptioner) -> None:
    client.post(ROUTE, json=chat(user(PICTURE)))
    assert captioner.questions[-1].turns == (Turn("user", PROMPTS.text("detailed")),)


def test_decoding(client: TestClient, captioner: ScriptedCaptioner) -> None:
    fields = {"max_tokens": 9, "max_completion_tokens": 4, "temperature": 0.5, "top_p": 0.9, "seed": -1}
    answer = client.post(ROUTE, json={**WHAT, **fields}).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 4
    question = captioner.questions[-1]
    assert (question.sampling.temperature, question.sampling.top_p, question.seed) == (0.5, 0.9, 2**31 - 1)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("stop", ["when", ["nowhere", " when"]])
def test_stop_texts(client: TestClient, captioner: ScriptedCaptioner, stop: str | list[str], stream: bool) -> None:
    got = client.post(ROUTE, json={**WHAT, "stop": stop, "stream": stream})
    if stream:
        text = "".join(one["choices"][0]["delta"].get("content", "") for one in chunks(got.text))
    else:
        text = got.json()["choices"][0]["message"]["content"]
    assert text.rstrip() == said_of(RED, "What?").partition(" when")[0]
    assert len(captioner.aborted) == 1


def test_harmless_fields_are_taken(client: TestClient) -> None:
    fields = {"n": 1, "tools": [], "logprobs": False, "user": "me", "frequency_penalty": 0.0, "top_logprobs": None}
    fields |= {"response_format": {"type": "text"}, "modalities": ["text"], "metadata": {"a": "b"}}
    assert client.post(ROUTE, json={**WHAT, **fields}).status_code == 200


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        ({**WHAT, "n": 2}, "n"),
        ({**WHAT, "tools": [{"type": "function"}]}, "tools"),
        ({**WHAT, "audio": {"voice": "x"}}, "audio"),
        ({**WHAT, "logprobs": True}, "logprobs"),
        ({**WHAT, "response_format": {"type": "json_object"}}, "response_format"),
        ({**WHAT, "frequency_penalty": 0.5}, "frequency_penalty"),
        ({**WHAT, "tokens": 5}, "tokens"),
        ({**WHAT, "max_tokens": 65}, "max_tokens"),
        ({**WHAT, "max_tokens": "5"}, "max_tokens"),
        ({**WHAT, "temperature": 2.5}, "temperature"),
        ({**WHAT, "stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({**WHAT, "stop": ""}, "stop"),
        ({"messages": WHAT["messages"]}, "model"),
        (chat(), "messages"),
        (chat({"role": "user", "content": "Hello?"}), "messages"),
        (chat(user(PICTURE, PICTURE)), "messages"),
        (chat(user(PICTURE), {"role": "assistant", "content": "A cat."}), "messages"),
        (chat(user(PICTURE), {"role": "assistant", "content": "A cat."}, user(said(""))), "messages"),
        (chat(user(PICTURE), {"role": "system", "content": "Late."}, user(said("?"))), "messages"),
        (chat({"role": "assistant", "content": "Hi."}, user(PICTURE)), "messages"),
        (chat({"role": "assistant", "content": [PICTURE]}), "messages[0].content[0].type"),
        (chat({"role": "tool", "content": "5"}), "messages[0].role"),
        (chat({"role": "user", "content": None}), "messages[0].content"),
        (chat(user({"type": "input_audio", "input_audio": {}})), "messages[0].content[0].type"),
        (chat(user({"type": "image_url", "image_url": {"url": "https://example.org"}})), None),
        (chat(user({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}})), None),
        (chat(user(PICTURE, said("a" * 501))), "messages"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_what_is_refused(client: TestClient, sent: dict[str, Any], param: str | None, stream: bool) -> None:
    got = client.post(ROUTE, json={**sent, "stream": stream})
    error = got.json()["error"]
    assert (got.status_code, error["type"]) == (400, "invalid_request_error")
    assert error["message"]
    if param is not None:
        assert error["param"] == param
    if param == "messages" and "Hello?" in str(sent):
        assert "an image is needed" in error["message"]


@pytest.mark.parametrize(
    ("fields", "text", "status", "code"),
    [
        ({"model": "gpt-4o"}, "What?", 404, "model_not_found"),
        ({"model": "vlm-0"}, "What?", 503, "not_ready"),
        ({}, "full", 429, "rate_limit_exceeded"),
        ({}, "die", 503, "engine_died"),
        ({}, "break", 500, "internal"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_errors(client: TestClient, fields: dict[str, Any], text: str, status: int, code: str, stream: bool) -> None:
    got = client.post(ROUTE, json={**chat(user(PICTURE, said(text))), **fields, "stream": stream})
    assert (got.status_code, got.json()["error"]["code"]) == (status, code)
    assert got.headers["Content-Type"] == "application/json"
    assert "secret" not in got.text


def test_an_error_in_mid_stream(client: TestClient) -> None:
    sent = chat(user(PICTURE, said("midway")), stream=True)
    assert chunks(client.post(ROUTE, json=sent).text)[-1]["error"]["code"] == "engine_died"


def test_models(client: TestClient) -> None:
    listed = client.get("/v1/models").json()
    assert [one["id"] for one in listed["data"]] == ["promoted", "ocr", "vlm-0"]
    first = listed["data"][0]
    assert (first["root"], first["digest"], first["state"]) == ("vlm-1", served("promoted").digest, "serving")
    assert listed["data"][2]["state"] == "loading"
    assert client.get("/v1/models/vlm-1").json() == first
    missing = client.get("/v1/models/vlm-9")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("stream", [True, False])
def test_when_the_client_leaves_the_engine_stops(stream: bool) -> None:
    async def work() -> None:
        captioner = ScriptedCaptioner()
        app = create_app(captioner, SETTINGS, PROMPTS)
        call = Call(app, ROUTE, chat(user(PICTURE, said("stall")), stream=stream))
        running = asyncio.ensure_future(call.run())
        await captioner.stalled.wait()
        call.leave()
        await running
        assert len(captioner.aborted) == 1
        assert not captioner.running

    asyncio.run(asyncio.wait_for(work(), 60))
