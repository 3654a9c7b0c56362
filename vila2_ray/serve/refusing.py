"""Answers that are given before a body was read: the connection closes, and only after the client could read why."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from vila2_ray.serve.problems import Problem, answer

_LINGER_SECONDS = 2.0
_LINGER_BYTES = 64 * 2**20


async def refuse(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer `problem`. What is still on its way is thrown away for a moment before the connection closes: closed on
    unread bytes it would be reset, and the client might see no answer."""
    response = answer(problem, scope)
    headers = Headers(scope=scope)
    if not _has_body(headers):
        await response(scope, receive, send)
        return
    response.headers["Connection"] = "close"

    async def unfinished(message: Message) -> None:
        await send({**message, "more_body": True} if message["type"] == "http.response.body" else message)

    await response(scope, receive, unfinished)
    if "expect" not in headers:  # who asked first, sends nothing now
        await _throw_away(receive)
    with contextlib.suppress(OSError):
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _has_body(headers: Mapping[str, str]) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


async def _throw_away(receive: Receive) -> None:
    """What still comes, for a bounded time and a bounded number of bytes."""
    until, num_bytes = time.monotonic() + _LINGER_SECONDS, 0
    with contextlib.suppress(asyncio.TimeoutError):
        while num_bytes < _LINGER_BYTES and (left := until - time.monotonic()) > 0:
            message = await asyncio.wait_for(receive(), left)
            num_bytes += len(message.get("body", b""))
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return
