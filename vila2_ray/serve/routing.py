"""The captioner of an endpoint with several versions: which version a question goes to, and a second try. No Ray here.

A question belongs to the version that its name was routed to when it began, to its end: nothing of an answer can come
from another one. If what answers is lost before anything was said, the question is asked once more, of whatever its
name is routed to by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

from vila2_ray.engines.live import Piece
from vila2_ray.errors import EngineDied, NotReady, UnknownModel
from vila2_ray.serve.captioner import Question, Said, Served, Standing
from vila2_ray.serve.logs import SERVE

RETRY_SECONDS = 1.0
_LOG = logging.getLogger(SERVE)


@dataclass(frozen=True)
class Route:
    """Where questions to a name go."""

    key: str
    """Of the version."""
    served: Served


@dataclass(frozen=True)
class Table:
    """What the follower tells those who send questions."""

    mark: str = ""
    """Another one whenever the table is another."""
    routes: Mapping[str, Route] = field(default_factory=dict)
    """Served name → route; names without one are not answered now."""
    standing: tuple[Standing, ...] = ()


class Line(Protocol):
    """A way to one version."""

    async def warm(self) -> None:
        """Get ready for the first question; never raises for a version that is gone."""

    def pieces(self, question: Question) -> AsyncGenerator[Piece, None]:
        """Raises as `Captioner.answer` does, EngineDied whenever what answers is lost; closing it ends the work."""

    def close(self) -> None:
        """No further question is sent; those that run go on."""


class TableSource(Protocol):
    """Where tables come from."""

    async def table(self, mark: str) -> Table:
        """The table once it is another than `mark`; or, after a while, the same again."""


class RoutingCaptioner:
    """A `Captioner` over a table that somebody else keeps."""

    def __init__(self, source: TableSource, open_line: Callable[[str], Line], names: tuple[str, ...]) -> None:
        self._source, self._open_line, self._names = source, open_line, names
        self._table = Table(standing=tuple(Standing(name, "loading", detail="starting") for name in names))
        self._lines: dict[str, Line] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._follow())

    def standing(self) -> tuple[Standing, ...]:
        return self._table.standing

    async def answer(self, question: Question) -> AsyncGenerator[Said, None]:
        is_last_try = False
        while True:
            route = self._route(question.name)
            said_something = False
            try:
                async with aclosing(self._lines[route.key].pieces(question)) as pieces:
                    async for piece in pieces:
                        said_something = True
                        yield Said(piece, route.served)
                return
            except EngineDied:
                if said_something or is_last_try:
                    raise
                _LOG.warning("question %s: what answered was lost; asked once more", question.key)
                is_last_try = True

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for line in self._lines.values():
            line.close()
        self._lines.clear()

    def _route(self, name: str) -> Route:
        if name not in self._names:
            raise UnknownModel(name, self._names)
        route = self._table.routes.get(name)
        if route is None:
            standing = next((s for s in self._table.standing if s.name == name), None)
            raise NotReady(f"{name}: {standing.detail if standing and standing.detail else 'nothing answers now'}")
        return route

    async def _follow(self) -> None:
        """Keep to the newest table. While none comes, the last one holds."""
        while True:
            try:
                table = await self._source.table(self._table.mark)
                if table.mark != self._table.mark:
                    await self.take(table)
            except Exception as error:  # the follower restarts, or its node is gone
                _LOG.warning("no word from the follower (%s); the last routes hold", type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)

    async def take(self, table: Table) -> None:
        """Route by this table from now on."""
        wanted = {route.key for route in table.routes.values()}
        fresh = {key: self._open_line(key) for key in wanted if key not in self._lines}
        await asyncio.gather(*(line.warm() for line in fresh.values()))
        self._lines.update(fresh)
        self._table = table
        for key in [key for key in self._lines if key not in wanted]:
            self._lines.pop(key).close()
