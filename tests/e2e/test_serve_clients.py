"""The endpoint as people call it: OpenAI's own client, plain HTTP, and clients that go away."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.served import eventually, served
from tests.unit.serve.scripted import BOXES, PROMPTS, SETTINGS, ScriptedCaptioner, data_url, png, said_of
from tests.unit.serve.scripted import served as checkpoint
from vila2_ray.serve.app import create_app
from vila2_ray.serve.captioner import Standing

RED = png("red")
PICTURE = {"type": "image_url", "image_url": {"url": data_url(RED)}}


@pytest.fixture(scope="module")
def captioner() -> ScriptedCaptioner:
    return ScriptedCaptioner(
        [Standing("promoted", "serving", checkpoint("promoted")), Standing("vlm-0", "loading", detail="loading")]
    )


@pytest.fixture(scope="module")
def address(captioner: ScriptedCaptioner) -> Iterator[str]:
    with served(create_app(captioner, SETTINGS, PROMPTS)) as url:
        yield url


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0) as made:
        yield made


def ask(text: str) -> list[Any]:
    return [{"role": "user", "content": [PICTURE, {"type": "text", "text": text}]}]


def test_openai_answers(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="promoted", messages=ask("What?"), max_tokens=20)
    assert answer.choices[0].message.content == said_of(RED, "What?")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.system_fingerprint == f"vlm-1@{checkpoint('promoted').digest[:12]}"


def test_openai_streams(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="vlm-1", messages=ask("What?"), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == said_of(RED, "What?")
    assert len([text for text in texts if text]) > 3
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 6


def test_openai_conversations(client: openai.OpenAI, captioner: ScriptedCaptioner) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        *ask("What?"),
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "Where?"},
    ]
    answer = client.chat.completions.create(model="promoted", messages=messages, temperature=0.5, seed=3)
    assert answer.choices[0].message.content == said_of(RED, "Where?")
    assert [turn.role for turn in captioner.questions[-1].turns] == ["system", "user", "assistant", "user"]


def test_openai_models(client: openai.OpenAI) -> None:
    first, second = client.models.list()
    assert (first.id, second.id) == ("promoted", "vlm-0")
    assert first.model_extra is not None
    assert first.model_extra["digest"] == checkpoint("promoted").digest
    assert client.models.retrieve("vlm-1").id == "promoted"


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"messages": ask("What?"), "model": "gpt-4o"}, openai.NotFoundError),
        ({"messages": ask("What?"), "model": "vlm-0"}, openai.InternalServerError),
        ({"messages": ask("What?"), "n": 2}, openai.BadRequestError),
        ({"messages": ask("What?"), "max_tokens": 9999}, openai.BadRequestError),
        ({"messages": [{"role": "user", "content": "Hello?"}]}, openai.BadRequestError),
        ({"messages": ask("refuse")}, openai.BadRequestError),
        ({"messages": ask("full")}, openai.RateLimitError),
        ({"messages": ask("die")}, openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_openai_errors(client: openai.OpenAI, fields: dict[str, Any], kind: type[Exception], stream: bool) -> None:
    with pytest.raises(kind) as raised:
        client.chat.completions.create(**{"model": "promoted", "stream": stream, **fields})
    assert isinstance(raised.value, openai.APIStatusError)
    assert raised.value.body["message"]  # type: ignore[index]


def test_openai_is_told_when_a_stream_breaks_off(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model="promoted", messages=ask("midway"), stream=True)
    with pytest.raises(openai.APIError, match="died"):
        list(stream)


def test_files_as_a_form(address: str) -> None:
    files = {"image": ("red.png", RED, "image/png")}
    got = httpx.post(f"{address}/v1/captions", files=files, data={"question": "boxes"})
    (caption,) = got.json()["captions"]
    assert caption["text"] == BOXES
    assert caption["boxes"][0]["phrase"] == "cat"


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/captions", {"images": [{"url": data_url(RED)}], "question": "stall"}),
        ("/v1/chat/completions", {"model": "promoted", "messages": ask("stall")}),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_stops_the_engine(
    address: str, captioner: ScriptedCaptioner, path: str, fields: dict[str, Any], stream: bool
) -> None:
    captioner.aborted.clear()
    if stream:
        with httpx.stream("POST", f"{address}{path}", json={**fields, "stream": True}, timeout=None) as got:
            assert got.status_code == 200
            pieces = got.iter_bytes()  # held: a stream that nobody holds is closed
            next(pieces)
            assert captioner.running
    else:
        going = http.client.HTTPConnection(address.removeprefix("http://"))
        going.request("POST", path, json.dumps(fields), {"Content-Type": "application/json"})
        eventually(lambda: bool(captioner.running))
        going.close()
    eventually(lambda: len(captioner.aborted) == 1 and not captioner.running)


def test_one_connection_serves_many_requests(address: str) -> None:
    with httpx.Client(timeout=60) as kept:
        for text in ("What?", "refuse", "Why?"):
            got = kept.post(f"{address}/v1/captions", content=json.dumps(
                {"images": [{"url": data_url(RED)}], "question": text}), headers={"Content-Type": "application/json"}
            )  # fmt: skip
            assert got.status_code == (422 if text == "refuse" else 200)
