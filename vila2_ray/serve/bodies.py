"""Bounds requests' bodies: the bytes of each, announced and counted, those of all, and the time that they take."""

from __future__ import annotations

import asyncio
import sys
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vila2_ray.errors import Overloaded
from vila2_ray.serve.brought import BY_THIS_REQUEST, Brought, Hold, too_large
from vila2_ray.serve.problems import Problem, problem_of
from vila2_ray.serve.refusing import refuse

GRACE_SECONDS = 20.0
"""For any body."""
LEAST_BYTES_PER_SECOND = 32 * 1024
"""A body that comes slower than this, after the grace, is cut off."""


class Bodies:
    """ASGI: answers 413 to bodies of more than `max_bytes`, 408 to those that come too slowly, and 429 to what would
    make all that are in hand more than `max_bytes_in_all` (None: any).

    The app reads on until then; it sees a client that went away, and what it answers to that is dropped.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_bytes: int,
        max_bytes_in_all: int | None = None,
        *,
        grace_seconds: float = GRACE_SECONDS,
        least_bytes_per_second: float = LEAST_BYTES_PER_SECOND,
    ) -> None:
        self.app, self.hold = app, Hold(max_bytes, sys.maxsize if max_bytes_in_all is None else max_bytes_in_all)
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
        elif len(announced) > 18 or int(announced) > self.hold.max_bytes:
            await refuse(too_large(self.hold.max_bytes), scope, receive, send)
        else:
            await self._pass_on(scope, receive, send)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        brought = Brought(self.hold)
        body = _Body(self, receive, brought)
        has_begun = False

        async def send_unless_cut(message: Message) -> None:
            nonlocal has_begun
            if has_begun or body.problem is None:
                has_begun = True
                await send(message)

        token = BY_THIS_REQUEST.set(brought)
        try:
            await self.app(scope, body.receive, send_unless_cut)
        except Exception:
            if has_begun or body.problem is None:
                raise
        finally:
            brought.release()
            BY_THIS_REQUEST.reset(token)
        if body.problem is not None and not has_begun:
            await refuse(body.problem, scope, receive, send)


class _Body:
    """One request's body as it comes in."""

    def __init__(self, bounds: Bodies, receive: Receive, brought: Brought) -> None:
        self._bounds, self._receive, self._brought = bounds, receive, brought
        self._since = 0.0
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
        try:
            self._brought.add(len(message.get("body", b"")))
        except (Problem, Overloaded) as error:
            self.problem = problem_of(error)
            return {"type": "http.disconnect"}
        self._is_whole = not message.get("more_body", False)
        return message

    def _left_seconds(self) -> float:
        allowed = self._bounds.grace_seconds + self._brought.num_bytes / self._bounds.least_bytes_per_second
        return max(0.0, self._since + allowed - time.monotonic())
