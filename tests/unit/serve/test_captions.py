from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.unit.serve.rawasgi import Call
from tests.unit.serve.scripted import (
    BOXES,
    PROMPTS,
    SETTINGS,
    ScriptedCaptioner,
    data_url,
    in_base64,
    key_of,
    png,
    said_of,
    served,
)
from vila2_ray.serve.app import create_app
from vila2_ray.skills.family import PROMPTS as SKILLS

RED, BLUE, GREEN = png("red"), png("blue", (20, 10)), png("green")
HUGE = png("red", (600, 600))
ROUTE = "/v1/captions"


def body(*pictures: bytes, **fields: Any) -> dict[str, Any]:
    return {"images": [{"data": in_base64(data)} for data in pictures], **fields}


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    """(name, data) of each server-sent event."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


def test_one_picture(client: TestClient) -> None:
    got = client.post(ROUTE, json=body(RED, question="What?"))
    assert got.status_code == 200
    assert got.headers["X-Vila2-Checkpoint"] == f"vlm-1@{served('promoted').digest[:12]}"
    answer = got.json()
    assert answer["id"] == got.headers["X-Request-Id"]
    (caption,) = answer["captions"]
    assert caption.pop("timings").keys() == {"waiting_ms", "total_ms"}
    assert caption == {
        "index": 0,
        "text": said_of(RED, "What?"),
        "boxes": [],
        "width": 8,
        "height": 6,
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 11, "completion_tokens": 6},
        "mean_logprob": None,
        "min_logprob": None,
        "checkpoint": {
            "name": "promoted",
            "model": "vlm-1",
            "digest": served("promoted").digest,
            "skill": "",
            "engine": "scripted 1",
        },
        "error": None,
    }


def test_log_probabilities_are_told_to_who_asks(client: TestClient, captioner: ScriptedCaptioner) -> None:
    (caption,) = client.post(ROUTE, json=body(RED, question="What?", logprobs=True)).json()["captions"]
    assert captioner.questions[-1].with_logprobs
    assert caption["mean_logprob"] == -0.5
    assert caption["min_logprob"] is None  # minus infinity, which JSON has not


def test_boxes_are_told(client: TestClient) -> None:
    (caption,) = client.post(ROUTE, json=body(RED, question="boxes")).json()["captions"]
    assert caption["text"] == BOXES
    assert caption["boxes"] == [
        {"phrase": "cat", "box": [10, 20, 300, 400]},
        {"phrase": "dog", "box": [500, 100, 900, 800]},
    ]


def test_several_pictures_by_every_way(client: TestClient) -> None:
    images = [{"data": in_base64(RED)}, {"url": data_url(BLUE)}, {"url": data_url(RED)}]
    captions = client.post(ROUTE, json={"images": images, "prompt": "brief"}).json()["captions"]
    assert [caption["index"] for caption in captions] == [0, 1, 2]
    text = PROMPTS.text("brief")
    assert [caption["text"] for caption in captions] == [said_of(data, text) for data in (RED, BLUE, RED)]
    assert (captions[1]["width"], captions[1]["height"]) == (20, 10)


def test_a_form(client: TestClient, captioner: ScriptedCaptioner) -> None:
    files = [("image", ("a.png", RED)), ("image", ("b.txt", BLUE, "text/plain"))]
    said = {"question": "What?", "max_tokens": "3", "temperature": "0.5", "seed": "7", "model": "", "stream": "false"}
    captions = client.post(ROUTE, files=files, data=said).json()["captions"]
    assert [caption["text"] for caption in captions] == [
        " ".join(said_of(data, "What?").split()[:3]) for data in (RED, BLUE)
    ]
    assert captions[0]["finish_reason"] == "length"
    assert (captioner.questions[0].sampling.temperature, captioner.questions[0].seed) == (0.5, 7)


def test_what_is_asked(client: TestClient, captioner: ScriptedCaptioner) -> None:
    client.post(ROUTE, json=body(RED))
    question = captioner.questions[-1]
    assert (question.name, question.image, question.image_key) == ("promoted", RED, key_of(RED))
    assert question.turns[0].text == PROMPTS.text("detailed")
    assert (question.sampling.temperature, question.sampling.max_tokens, question.streamed) == (0.0, 32, False)

    client.post(ROUTE, json=body(RED, specialist="ocr"))
    assert captioner.questions[-1].name == "ocr"
    assert captioner.questions[-1].turns[0].text == SKILLS["ocr"]["ocr"]

    client.post(ROUTE, json=body(RED, model="vlm-1", question="Why?"))
    assert captioner.questions[-1].name == "promoted"


def test_one_bad_picture_fails_only_itself(client: TestClient) -> None:
    got = client.post(ROUTE, json=body(RED, GREEN, HUGE, b"<p>"))
    assert got.status_code == 200
    captions = got.json()["captions"]
    assert [caption["error"] and caption["error"]["status"] for caption in captions] == [None, 422, 413, 415]
    assert captions[2]["error"]["field"] == "images[2].data"
    assert captions[1]["width"] == 8
    assert captions[3]["width"] is None
    assert [caption["text"] for caption in captions[1:]] == ["", "", ""]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("pictures", "fields", "status"),
    [
        ((HUGE,), {}, 413),
        ((b"<html>",), {}, 415),
        ((b"\x89PNG\r\n\x1a\n",), {}, 422),
        ((GREEN, b"<html>"), {}, 422),
        ((RED,), {"question": "die"}, 503),
        ((RED,), {"question": "full"}, 429),
        ((RED,), {"question": "break"}, 500),
        ((RED,), {"model": "vlm-0"}, 503),
        ((RED,), {"model": "vlm-9"}, 404),
        ((RED,), {"specialist": "grounding"}, 404),
        ((RED,), {"prompt": "nope"}, 422),
        ((RED,), {"prompt": "brief", "question": "What?"}, 422),
        ((RED,), {"question": "a" * 501}, 422),
        ((RED,), {"max_tokens": 65}, 422),
        ((RED,), {"max_tokens": "5"}, 422),
        ((RED,), {"min_tokens": 40, "max_tokens": 30}, 422),
        ((RED,), {"temperature": 3}, 422),
        ((RED,), {"top_p": 0}, 422),
        ((RED,), {"seed": -1}, 422),
        ((RED,), {"tokens": 5}, 422),
        ((RED,) * 5, {}, 422),
        ((), {}, 422),
    ],
)
def test_problems(
    client: TestClient, pictures: tuple[bytes, ...], fields: dict[str, Any], status: int, stream: bool
) -> None:
    got = client.post(ROUTE, json=body(*pictures, **fields, stream=stream))
    problem = got.json()
    assert (got.status_code, problem["status"]) == (status, status)
    assert got.headers["Content-Type"] == "application/problem+json"
    assert problem["instance"] == got.headers["X-Request-Id"]
    assert "secret" not in got.text
    assert ("Retry-After" in got.headers) == (status in (429, 503))


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400),
        ({"content": b'{"prompt": "\\ud800"}', "headers": {"Content-Type": "application/json"}}, 400),
        ({"content": b"", "headers": {"Content-Type": "application/json"}}, 400),
        ({"content": b"[]", "headers": {"Content-Type": "application/json"}}, 422),
        ({"content": b"[" * 100_000, "headers": {"Content-Type": "application/json"}}, 400),
        ({"content": b'{"images":[' + b"0," * 30_000 + b"0]}"}, 413),
        ({"content": b'{"' + b"a" * 100_000 + b'":0}'}, 422),
        ({"json": {**body(RED), "model": "a" * 100_000}}, 404),
        ({"content": RED, "headers": {"Content-Type": "image/png"}}, 415),
        ({"data": {"prompt": "brief"}}, 415),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400),
        ({"files": [("image", ("a.png", RED))] * 6}, 400),
        ({"files": [("image", ("a.png", RED))] * 5}, 422),
        ({"files": [("picture", ("a.png", RED))]}, 422),
        ({"files": [("image", ("a.png", b""))]}, 422),
        ({"files": [("image", ("a.png", RED))], "data": {"max_tokens": "many"}}, 422),
        ({"files": [("image", ("a.png", RED))], "data": {"prompt": ["brief", "detailed"]}}, 422),
        ({"files": [("prompt", (None, "brief"))]}, 422),
        ({"files": [("image", (None, "text"))]}, 422),
        ({"json": {"images": [{}]}}, 422),
        ({"json": {"images": [{"data": "", "url": ""}]}}, 422),
        ({"json": {"images": [{"data": "not base64"}]}}, 422),
        ({"json": {"images": [{"url": "https://example.org/a.png"}]}}, 422),
        ({"json": {"images": [{"url": "file:///etc/passwd"}]}}, 422),
    ],
)
def test_bodies_that_cannot_be_read(client: TestClient, sent: dict[str, Any], status: int) -> None:
    got = client.post(ROUTE, **sent)
    assert (got.status_code, got.headers["Content-Type"]) == (status, "application/problem+json")
    assert len(got.content) < 4000, "it does not repeat what was sent"


def test_a_stream(client: TestClient) -> None:
    got = client.post(ROUTE, json=body(RED, BLUE, GREEN, question="What?", stream=True))
    assert got.headers["Content-Type"].startswith("text/event-stream")
    assert got.headers["X-Vila2-Checkpoint"].startswith("vlm-1@")
    told = events(got.text)
    assert told[-1] == ("done", {})
    for index, data in enumerate((RED, BLUE)):
        pieces = [data["text"] for name, data in told if name == "piece" and data["index"] == index]
        (caption,) = [data for name, data in told if name == "caption" and data["index"] == index]
        assert "".join(pieces) == caption["text"] == said_of(data, "What?")
        assert len(pieces) > 1
    (error,) = [data for name, data in told if name == "error"]
    assert (error["index"], error["status"]) == (2, 422)


def test_a_stream_whose_engine_dies_says_so(client: TestClient) -> None:
    told = events(client.post(ROUTE, json=body(RED, question="midway", stream=True)).text)
    assert [name for name, _ in told] == ["piece", "piece", "error", "done"]
    assert told[2][1]["status"] == 503


@pytest.mark.parametrize("question", ["stall", "silence"])
@pytest.mark.parametrize("stream", [True, False])
def test_when_the_client_leaves_the_engine_stops(question: str, stream: bool) -> None:
    async def work() -> None:
        captioner = ScriptedCaptioner()
        call = Call(create_app(captioner, SETTINGS, PROMPTS), ROUTE, body(RED, BLUE, question=question, stream=stream))
        running = asyncio.ensure_future(call.run())
        await captioner.stalled.wait()
        if stream and question == "stall":
            await call.until('"sees "')
        assert captioner.running
        call.leave()
        await running
        assert len(captioner.aborted) == 2
        assert not captioner.running

    asyncio.run(asyncio.wait_for(work(), 60))


@pytest.mark.parametrize("stream", [True, False])
def test_slow_answers_are_given_up(stream: bool) -> None:
    async def work() -> None:
        captioner = ScriptedCaptioner()
        settings = type(SETTINGS)(timeout_seconds=0.05)
        call = Call(create_app(captioner, settings, PROMPTS), ROUTE, body(RED, question="silence", stream=stream))
        await call.run()
        assert call.status == 504
        assert len(captioner.aborted) == 1

    asyncio.run(work())
