"""The deployment class of one version: a worker on Ray Serve. Every version is an application of its own.

What a question did wrong is handed back as a value: an exception that leaves a replica costs a traceback and a log
entry. A dead engine ends the process: Serve starts another, and no question is sent to this one any more.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from vila2_ray.engines.live import Piece
from vila2_ray.engines.niceness import take_normal_niceness
from vila2_ray.errors import EngineDied, NotReady, Vila2Error
from vila2_ray.serve.captioner import Question
from vila2_ray.serve.cluster import stay_on_loopback
from vila2_ray.serve.merging import joined, merged
from vila2_ray.serve.states import Version
from vila2_ray.serve.worker import Worker, WorkerSpec

BROKEN_SECONDS = 30.0
"""A replica that could not load stays for so long, to say why; then Serve starts another."""


class Replica:
    """Holds a worker, or the reason why it could not be opened."""

    async def __init__(self, spec: WorkerSpec) -> None:  # type: ignore[misc]  # Serve awaits it
        take_normal_niceness()
        stay_on_loopback()
        if spec.engine.name != "fake":
            import torch

            torch.set_num_threads(max(1, int(spec.engine.cpus_per_actor)))
        self._version = spec.version
        self._worker: Worker | None = None
        self._problem: Exception | None = None
        self._is_good = False
        self._opened_at = time.monotonic()
        try:
            self._worker = await Worker.open(spec)
        except Exception as error:
            self._problem = error
        self._opened_at = time.monotonic()

    async def version(self) -> Version:
        return self._version

    async def smoke(self) -> str:
        """Which engine answers, once it has captioned its smoke picture. Raises what is wrong."""
        if self._worker is None:
            assert self._problem is not None
            raise self._problem
        if not self._is_good:
            try:
                await self._worker.smoke()
            except EngineDied as death:
                _end_process(death)
            self._is_good = True
        return self._worker.label

    async def whole(self, question: Question) -> Piece | Vila2Error:
        """The answer as one piece."""
        said: list[Piece] = []
        try:
            async with aclosing(self._open().answer(question)) as pieces:
                said = [piece async for piece in pieces]
        except EngineDied as death:
            _end_process(death)
        except Vila2Error as error:
            return error
        return joined(said)

    async def stream(self, question: Question) -> AsyncGenerator[Piece | Vila2Error, None]:
        """The answer in pieces."""
        try:
            async with aclosing(merged(self._open().answer(question))) as pieces:
                async for piece in pieces:
                    yield piece
        except EngineDied as death:
            _end_process(death)
        except Vila2Error as error:
            yield error

    async def check_health(self) -> None:
        """Serve replaces a replica for which this raises."""
        if self._worker is not None:
            try:
                await self._worker.engine.check()
            except EngineDied as death:
                _end_process(death)
        elif time.monotonic() - self._opened_at > BROKEN_SECONDS:
            raise NotReady(f"{self._version.target.label} could not be loaded: {self._problem}")

    async def __del__(self) -> None:
        worker = getattr(self, "_worker", None)
        if worker is not None:
            with contextlib.suppress(Exception):
                await worker.close()

    def _open(self) -> Worker:
        if self._worker is None:
            raise NotReady(f"{self._version.target.label} could not be loaded on this replica")
        return self._worker


def _end_process(death: EngineDied) -> None:
    print(f"engine died: {death}", file=sys.stderr, flush=True)
    os._exit(1)
