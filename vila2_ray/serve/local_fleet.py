"""Versions in the process that listens: no cluster and no hop between. For one replica of one model on one machine."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from vila2_ray.engines.live import Piece
from vila2_ray.errors import EngineDied
from vila2_ray.serve.captioner import Question
from vila2_ray.serve.configuring import Setup
from vila2_ray.serve.states import Phase, Run, Version
from vila2_ray.serve.worker import Worker

DRAIN_POLL_SECONDS = 0.05


@dataclass
class _Place:
    """What is known of one version here."""

    version: Version
    begun_at: float
    opening: asyncio.Task[Worker]
    closing: asyncio.Task[None] | None = None

    @property
    def worker(self) -> Worker | None:
        is_open = self.opening.done() and not self.opening.cancelled() and self.opening.exception() is None
        return self.opening.result() if is_open else None

    @property
    def phase(self) -> Phase:
        if self.closing is not None:
            return "stopping"
        return "running" if self.opening.done() else "loading"  # also with an error: `smoke` raises it


class LocalFleet:
    """Workers by version. Belongs to the event loop that listens."""

    def __init__(self, setup: Setup, open_worker: Callable[..., object] = Worker.open) -> None:
        self._setup, self._open = setup, open_worker
        self._places: dict[str, _Place] = {}

    async def runs(self) -> list[Run]:
        return [Run(key, place.phase, place.begun_at) for key, place in self._places.items()]

    async def version(self, key: str) -> Version | None:
        place = self._places.get(key)
        return place.version if place else None

    async def start(self, version: Version) -> None:
        self._places[version.key] = _Place(version, time.time(), self._opening(version))

    async def smoke(self, key: str) -> str:
        worker = await self._places[key].opening
        await worker.smoke()
        return worker.label

    async def stop(self, key: str) -> None:
        place = self._places.get(key)
        if place is not None and place.closing is None:
            place.closing = asyncio.create_task(self._end(key, place))

    async def room(self) -> int:
        """Two share processors, but hardly a GPU."""
        return 0 if self._setup.config.recaption.engine.gpus_per_actor else 1

    async def close(self) -> None:
        for key in list(self._places):
            await self.stop(key)
        closing = [place.closing for place in self._places.values() if place.closing is not None]
        await asyncio.gather(*closing, return_exceptions=True)

    def line(self, key: str) -> LocalLine:
        return LocalLine(self, key)

    async def worker(self, key: str) -> Worker:
        """What answers for a version. Raises EngineDied where it is gone."""
        place = self._places.get(key)
        if place is None:
            raise EngineDied(f"{key} is no longer served")
        return await asyncio.shield(place.opening)

    def replace(self, key: str, dead: Worker) -> None:
        """Open the version again in place of a worker whose engine died; once, however many tell of it."""
        place = self._places.get(key)
        if place is not None and place.closing is None and place.worker is dead:
            place.opening = self._opening(place.version)
            task = asyncio.create_task(dead.close())
            _BACKGROUND.add(task)
            task.add_done_callback(_BACKGROUND.discard)

    def _opening(self, version: Version) -> asyncio.Task[Worker]:
        task: asyncio.Task[Worker] = asyncio.ensure_future(self._open(self._setup.worker(version)))  # type: ignore[call-overload]
        return task

    async def _end(self, key: str, place: _Place) -> None:
        try:
            if not place.opening.done():
                place.opening.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                worker = await place.opening
                deadline = time.monotonic() + self._setup.settings.drain_seconds
                while worker.num_in_hand and time.monotonic() < deadline:
                    await asyncio.sleep(DRAIN_POLL_SECONDS)
                await worker.close()
        finally:
            self._places.pop(key, None)


_BACKGROUND: set[asyncio.Task[None]] = set()
"""Tasks that nobody awaits are kept from being collected."""


class LocalLine:
    """A way to one version in this process."""

    def __init__(self, fleet: LocalFleet, key: str) -> None:
        self._fleet, self._key = fleet, key

    async def warm(self) -> None:
        pass

    async def pieces(self, question: Question) -> AsyncGenerator[Piece, None]:
        worker = await self._fleet.worker(self._key)
        try:
            async with aclosing(worker.answer(question)) as pieces:
                async for piece in pieces:
                    yield piece
        except EngineDied:
            self._fleet.replace(self._key, worker)
            raise

    def close(self) -> None:
        pass
