"""ASGI by hand: requests whose body comes as the test says, and real servers on loopback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass
class Answered:
    """What an app sent."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_whole: bool = False

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def scope_of(method: str = "GET", path: str = "/", headers: dict[str, str] | None = None) -> Scope:
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    query = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "query_string": b""}
    return {**query, "method": method, "path": path, "raw_path": path.encode(), "headers": raw, "root_path": ""}


def messages(parts: Iterable[bytes]) -> list[Message]:
    parts = list(parts) or [b""]
    return [
        {"type": "http.request", "body": part, "more_body": number < len(parts)} for number, part in enumerate(parts, 1)
    ]


async def asked(
    app: ASGIApp,
    method: str = "GET",
    path: str = "/",
    headers: dict[str, str] | None = None,
    parts: Iterable[bytes] = (),
    is_stalled: bool = False,
    scope: Scope | None = None,
) -> Answered:
    """One request, its body in parts; then the client leaves, or, `is_stalled`, promises more and sends none."""
    script = messages(parts)
    if is_stalled:
        script[-1]["more_body"] = True
    answered, left = Answered(), asyncio.Event()

    async def receive() -> Message:
        if script:
            return script.pop(0)
        if is_stalled and not answered.status:
            await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            assert not answered.status, "two answers"
            answered.status = message["status"]
            answered.headers = {name.decode().lower(): value.decode() for name, value in message["headers"]}
        else:
            answered.body += message.get("body", b"")
            answered.is_whole = not message.get("more_body", False)

    await app(scope or scope_of(method, path, headers), receive, send)
    return answered


async def reads_all(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that answers with the length of the body; one that was cut off is an error, as in Starlette."""
    num_bytes = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionAbortedError("the client left")
        num_bytes += len(message.get("body", b""))
        if not message.get("more_body", False):
            break
    await says(send, str(num_bytes).encode())


async def says(send: Send, body: bytes, status: int = 200, kind: bytes = b"text/plain") -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def served(app: ASGIApp, http: str = "h11") -> AsyncIterator[int]:
    """A real server in this event loop; its port."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, http=http, lifespan="off", log_config=None, ws="none")  # type: ignore[arg-type]
    server = uvicorn.Server(config)
    server.capture_signals = _no_signals  # type: ignore[method-assign, assignment]
    running = asyncio.create_task(server.serve())
    while not server.started:
        assert not running.done(), "the server did not start"
        await asyncio.sleep(0.005)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await running


class _no_signals:  # noqa: N801
    """In place of uvicorn's context manager: signals are pytest's."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...
