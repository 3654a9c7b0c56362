from __future__ import annotations

import asyncio
import json

import pytest
from fastapi import FastAPI, Request
from starlette.types import Message, Receive, Scope, Send

from tests.unit.serve.wire import Answered, asked, messages, reads_all, says, scope_of, served
from vila2_ray.serve import problems
from vila2_ray.serve.bodies import Bodies

MAX = 1000


def ask(*parts: bytes, headers: dict[str, str] | None = None, **more: object) -> Answered:
    return asyncio.run(asked(Bodies(reads_all, MAX, **more), "POST", "/", headers, parts))  # type: ignore[arg-type]


def test_bodies_within_bounds_pass_untouched() -> None:
    assert ask(b"a" * 500, b"b" * 500).body == b"1000"
    assert ask(b"a" * 1000, headers={"content-length": "1000"}).body == b"1000"
    assert ask().body == b"0"


@pytest.mark.parametrize("length", ["1001", "9" * 30])
def test_an_announced_body_that_is_too_large_never_reaches_the_app(length: str) -> None:
    async def never(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError

    answered = asyncio.run(asked(Bodies(never, MAX), "POST", "/", {"content-length": length}, [b"a"]))
    assert (answered.status, answered.headers["connection"], answered.is_whole) == (413, "close", True)
    assert "1,000 bytes" in answered.json["detail"]


def test_a_body_that_grows_too_large_is_cut_off() -> None:
    answered = ask(*[b"a" * 100] * 20, headers={"transfer-encoding": "chunked"})
    assert (answered.status, answered.headers["connection"], answered.is_whole) == (413, "close", True)
    assert ask(*[b"a" * 100] * 20, headers={"content-length": "500"}).status == 413


@pytest.mark.parametrize("length", ["-1", "ten", "1.5", "", "٣"])
def test_a_length_that_is_no_number_is_refused(length: str) -> None:
    scope = scope_of("POST", "/")
    scope["headers"] = [(b"content-length", length.encode())]
    assert asyncio.run(asked(Bodies(reads_all, MAX), scope=scope)).status == 400


def test_a_body_that_stalls_is_answered_408() -> None:
    bodies = Bodies(reads_all, MAX, grace_seconds=0.1)
    headers = {"content-length": "900"}
    answered = asyncio.run(asked(bodies, "POST", "/", headers, [b"a" * 10], is_stalled=True))
    assert (answered.status, answered.headers["connection"]) == (408, "close")


def test_a_body_that_drips_is_answered_408_and_a_steady_one_is_not() -> None:
    async def dripping(bodies: Bodies, wait_seconds: float) -> int:
        script, status = messages([b"a" * 50] * 20), 0

        async def receive() -> Message:
            await asyncio.sleep(wait_seconds)
            return script.pop(0) if script else {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)

        await bodies(scope_of("POST", "/", {"content-length": "1000"}), receive, send)
        return status

    assert asyncio.run(dripping(Bodies(reads_all, MAX, grace_seconds=0.2, least_bytes_per_second=1e9), 0.05)) == 408
    assert asyncio.run(dripping(Bodies(reads_all, MAX, grace_seconds=60.0, least_bytes_per_second=1.0), 0.0)) == 200


def test_what_an_app_answers_to_a_cut_body_is_dropped() -> None:
    app = FastAPI()
    problems.install(app)

    @app.post("/")
    async def length(request: Request) -> int:
        return len(await request.body())

    @app.post("/json")
    async def fields(wish: dict[str, str]) -> int:
        return len(wish)

    @app.post("/form")
    async def form(request: Request) -> int:
        return len(await request.form())

    app.add_middleware(Bodies, max_bytes=MAX)
    json_body = {"content-type": "application/json"}
    multipart = {"content-type": "multipart/form-data; boundary=b"}
    field = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
    for path, kind, first in (
        ("/", {}, b""),
        ("/json", {"content-type": "application/json"}, b'{"a":"'),
        ("/form", multipart, field),
    ):
        answered = asyncio.run(asked(app, "POST", path, kind, [first, *[b"a" * 300] * 5]))
        assert answered.status == 413, path
        assert answered.json["type"] == "/problems/body-too-large"
    kept = asyncio.run(asked(app, "POST", "/json", json_body, [b'{"a":', b'"b"}']))
    assert (kept.status, kept.body) == (200, b"1")


def test_errors_of_the_app_are_its_own() -> None:
    async def raises(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(asked(Bodies(raises, MAX)))


def test_after_the_body_the_client_may_take_its_time_and_be_seen_to_leave() -> None:
    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["more_body"] is False
        assert (await receive())["type"] == "http.disconnect"
        await says(send, b"seen")

    async def run() -> list[Message]:
        script, sent = messages([b"a"]), list[Message]()

        async def receive() -> Message:
            if script:
                return script.pop(0)
            await asyncio.sleep(0.3)  # longer than the grace: bounds are of the body alone
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)

        await Bodies(waits, MAX, grace_seconds=0.1)(scope_of("POST", "/"), receive, send)
        return sent

    assert asyncio.run(run())[0]["status"] == 200


@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize("framing", ["announced", "counted", "slow"])
def test_a_real_client_reads_why_and_sees_the_connection_close(http: str, framing: str) -> None:
    async def run() -> bytes:
        bodies = Bodies(reads_all, 100_000, grace_seconds=0.2 if framing == "slow" else 3600.0)
        async with served(bodies, http) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = b"POST / HTTP/1.1\r\nHost: x\r\n"
            if framing == "announced":
                writer.write(head + b"Content-Length: 400000\r\n\r\n" + b"a" * 400_000)
            elif framing == "counted":
                chunk = b"c350\r\n" + b"a" * 50_000 + b"\r\n"
                writer.write(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 8 + b"0\r\n\r\n")
            else:
                writer.write(head + b"Content-Length: 1000\r\n\r\nab")
            await writer.drain()
            answer = await reader.readuntil(b"}")
            if framing == "slow":
                writer.write_eof()
            answer += await reader.read()  # until the server closes; a reset would raise
            writer.close()
            return answer

    answer = asyncio.run(asyncio.wait_for(run(), 60))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 " if framing == "slow" else b"HTTP/1.1 413 ")
    assert head.lower().count(b"connection: close") == 1
    assert json.loads(body)["detail"]


def test_a_client_that_asks_first_sends_nothing() -> None:
    async def run() -> bytes:
        async with served(Bodies(reads_all, MAX)) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 400000\r\nExpect: 100-continue\r\n\r\n")
            answer = await reader.read()
            writer.close()
            return answer

    assert asyncio.run(asyncio.wait_for(run(), 60)).startswith(b"HTTP/1.1 413 ")


def test_all_bodies_in_hand_are_bounded_together() -> None:
    async def work() -> tuple[Answered, Answered, Answered]:
        may_end = asyncio.Event()

        async def waits(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await may_end.wait()
            await says(send, b"held")

        bodies = Bodies(waits, MAX, 1500)
        first = asyncio.create_task(asked(bodies, "POST", "/", {}, [b"a" * 900]))
        while bodies.hold.num_bytes < 900:
            await asyncio.sleep(0)
        may_end_soon = asyncio.get_running_loop().call_later(0.05, may_end.set)
        refused = await asked(bodies, "POST", "/", {}, [b"b" * 900])
        held = await first
        may_end_soon.cancel()
        assert bodies.hold.num_bytes == 0
        return refused, held, await asked(bodies, "POST", "/", {}, [b"c" * 900])

    refused, held, later = asyncio.run(work())
    assert (refused.status, held.status, later.status) == (429, 200, 200)
    assert int(refused.headers["retry-after"]) > 0
