"""One HTTP request as a server tells it to an ASGI app, with a client that can leave at any moment."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.types import ASGIApp, Message

PATIENCE_SECONDS = 120.0
"""For what must happen; far more than it takes, for busy machines."""


class Call:
    """A request to `app`; `body` is sent as JSON."""

    def __init__(self, app: ASGIApp, path: str, body: Any, headers: dict[str, str] | None = None) -> None:
        self.messages: list[Message] = []
        self._app, self._gone, self._sent = app, asyncio.Event(), asyncio.Event()
        self._body: bytes | None = json.dumps(body).encode()
        given = {"content-type": "application/json", "host": "localhost", **(headers or {})}
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
            "server": ("localhost", 80),
            "client": ("127.0.0.1", 1),
        }

    async def run(self) -> None:
        """Until the app has done with it."""
        await asyncio.wait_for(self._app(self.scope, self._receive, self._send), PATIENCE_SECONDS)

    def leave(self) -> None:
        self._gone.set()

    @property
    def status(self) -> int:
        """Of the answer; 0 while there is none."""
        return next((int(m["status"]) for m in self.messages if m["type"] == "http.response.start"), 0)

    @property
    def text(self) -> str:
        """Of the answer so far."""
        return b"".join(m["body"] for m in self.messages if m["type"] == "http.response.body").decode()

    async def until(self, words: str) -> None:
        """Wait for an answer that has these words."""
        while words not in self.text:
            self._sent.clear()
            await asyncio.wait_for(self._sent.wait(), PATIENCE_SECONDS)

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self.messages.append(message)
        self._sent.set()
