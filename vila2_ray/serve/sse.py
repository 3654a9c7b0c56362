"""Server-sent events: how they are written, and a response that sends them while somebody listens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from vila2_ray.serve.answering import gone

HEARTBEAT_SECONDS = 15.0
"""Of silence, after which a comment tells every proxy on the way that the connection lives."""
_HEARTBEAT = b": still at it\n\n"


def encode(data: Mapping[str, Any], event: str = "") -> bytes:
    """One event. JSON has no line breaks of its own, so that its data is always one line."""
    written = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return (f"event: {event}\ndata: {written}\n\n" if event else f"data: {written}\n\n").encode()


class EventStream(Response):
    """Sends what the generator gives; closes it as soon as the client goes away, or reads for longer than `seconds`."""

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        *,
        seconds: float,
        headers: Mapping[str, str] | None = None,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        self.status_code, self.background = 200, None
        self.events, self.seconds, self.heartbeat_seconds = events, seconds, heartbeat_seconds
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
        beating = asyncio.ensure_future(self._beat(send))
        try:
            async for event in self.events:
                self._quiet = False
                await send({"type": "http.response.body", "body": event, "more_body": True})
        finally:
            beating.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _beat(self, send: Send) -> None:
        while True:
            self._quiet = True
            await asyncio.sleep(self.heartbeat_seconds)
            if self._quiet:
                await send({"type": "http.response.body", "body": _HEARTBEAT, "more_body": True})
