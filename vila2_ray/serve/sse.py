"""Server-sent events: how they are written, and a response that sends them while somebody listens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from vila2_ray.serve.answering import gone

E = TypeVar("E")
HEARTBEAT_SECONDS = 15.0
"""Of silence, after which a comment tells every proxy on the way that the connection lives."""
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_HEARTBEAT = b": still at it\n\n"


def encode(data: Mapping[str, Any], event: str = "") -> bytes:
    """One event. JSON has no line breaks of its own, so that its data is always one line."""
    written = _JSON.encode(data)
    return (f"event: {event}\ndata: {written}\n\n" if event else f"data: {written}\n\n").encode()


class EventStream(Response, Generic[E]):
    """Sends what a generator gives; closes it when it is whole, when the client goes away, or after `seconds`."""

    media_type = "text/event-stream"

    def __init__(
        self,
        seen: Sequence[E],
        events: AsyncGenerator[E, None],
        write: Callable[[E], bytes],
        *,
        seconds: float,
        first: bytes = b"",
        last: bytes = b"",
        headers: Mapping[str, str] | None = None,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        """`seen`: what was taken out of `events` already. `first` and `last` stand around all of them."""
        self.status_code, self.background = 200, None
        self.seen, self.events, self.write, self.first, self.last = seen, events, write, first, last
        self.seconds, self.heartbeat_seconds, self._is_quiet = seconds, heartbeat_seconds, False
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no", **(headers or {})})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        tasks = {asyncio.ensure_future(self._send_all(send)), asyncio.ensure_future(gone(receive))}
        try:
            done, _ = await asyncio.wait(tasks, timeout=self.seconds, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.events.aclose()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        seen = self.first + b"".join(self.write(event) for event in self.seen)
        if seen:
            await send(_more(seen))
        beating = asyncio.ensure_future(self._beat(send))
        try:
            async for event in self.events:
                self._is_quiet = False
                await send(_more(self.write(event)))
        finally:
            beating.cancel()
        await send({"type": "http.response.body", "body": self.last, "more_body": False})

    async def _beat(self, send: Send) -> None:
        while True:
            self._is_quiet = True
            await asyncio.sleep(self.heartbeat_seconds)
            if self._is_quiet:
                await send(_more(_HEARTBEAT))


def _more(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}
