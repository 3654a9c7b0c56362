"""Bounds a request's body: its bytes, announced and counted, and the time that it takes to come in."""

from __future__ import annotations

import asyncio
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vila2_ray.serve.problems import Problem
from vila2_ray.serve.refusing import refuse

GRACE_SECONDS = 20.0
"""For any body."""
LEAST_BYTES_PER_SECOND = 32 * 1024
"""A body that comes slower than this, after the grace, is cut off."""


class Bodies:
    """ASGI: answers 413 to bodies of more than `max_bytes`, 408 to those that come too slowly.

    The app reads on until then; it sees a client that went away, and what it answers to that is dropped.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_bytes: int,
        grace_seconds: float = GRACE_SECONDS,
        least_bytes_per_second: float = LEAST_BYTES_PER_SECOND,
    ) -> None:
        self.app, self.max_bytes = app, max_bytes
        self.grace_seconds, self.least_bytes_per_second = grace_seconds, least_bytes_per_second

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "0")
        if not (announced.isascii() and announced.isdigit()):
            problem = Problem(
                400, "bad-length", "Bad Content-Length", f"Content-Length = {announced[:40]!r}: no number"
            )
            await refuse(problem, scope, receive, send)
        elif len(announced) > 18 or int(announced) > self.max_bytes:
            await refuse(self._too_large(), scope, receive, send)
        else:
            await self._pass_on(scope, receive, send)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = _Body(self, receive)
        has_begun = False

        async def send_unless_cut(message: Message) -> None:
            nonlocal has_begun
            if has_begun or body.problem is None:
                has_begun = True
                await send(message)

        try:
            await self.app(scope, body.receive, send_unless_cut)
        except Exception:
            if has_begun or body.problem is None:
                raise
        if body.problem is not None and not has_begun:
            await refuse(body.problem, scope, receive, send)

    def _too_large(self) -> Problem:
        detail = f"the request's body is larger than {self.max_bytes:,} bytes: send fewer or smaller pictures at once"
        return Problem(413, "body-too-large", "Too many bytes", detail)


class _Body:
    """One request's body as it comes in."""

    def __init__(self, bounds: Bodies, receive: Receive) -> None:
        self._bounds, self._receive = bounds, receive
        self._num_bytes, self._since = 0, 0.0
        self._is_whole = False
        self.problem: Problem | None = None
        """Why it was cut off."""

    async def receive(self) -> Message:
        """The next message, or that the client went away once a bound is passed."""
        if self._is_whole:
            return await self._receive()
        if self.problem is not None:
            return {"type": "http.disconnect"}
        self._since = self._since or time.monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), self._left_seconds())
        except asyncio.TimeoutError:
            least = self._bounds.least_bytes_per_second
            detail = f"the body came slower than {least:,.0f} bytes a second"
            self.problem = Problem(408, "body-too-slow", "The body did not come in time", detail)
            return {"type": "http.disconnect"}
        self._num_bytes += len(message.get("body", b""))
        if self._num_bytes > self._bounds.max_bytes:
            self.problem = self._bounds._too_large()
            return {"type": "http.disconnect"}
        self._is_whole = not message.get("more_body", False)
        return message

    def _left_seconds(self) -> float:
        allowed = self._bounds.grace_seconds + self._num_bytes / self._bounds.least_bytes_per_second
        return max(0.0, self._since + allowed - time.monotonic())
