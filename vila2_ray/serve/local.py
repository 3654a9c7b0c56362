"""The captioner of one process, without Ray: for development, tests and small machines."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

from vila2_ray.config import EngineConfig
from vila2_ray.config.serving import ServeConfig
from vila2_ray.corpus.images import decode_image
from vila2_ray.engines.choice import open_live_engine
from vila2_ray.engines.live import LiveEngine, LiveRequest
from vila2_ray.errors import EngineDied, NotReady, Overloaded, UnknownModel, Vila2Error, in_one_line
from vila2_ray.serve.captioner import Question, Said, Served, Standing, State

_DECODING_THREADS = 2

Open = Callable[[Path], Awaitable[LiveEngine]]


class LocalCaptioner:
    """Several checkpoints side by side, each in an engine of its own."""

    def __init__(
        self,
        folders: Mapping[str, tuple[Served, Path]],
        config: EngineConfig,
        settings: ServeConfig,
        *,
        quantization: str = "",
        processor: dict[str, Any] | None = None,
        seed: int = 0,
        capacity: int = 0,
    ) -> None:
        async def open_one(folder: Path) -> LiveEngine:
            return await open_live_engine(
                config, folder, quantization=quantization, processor=processor, seed=seed, capacity=capacity
            )

        self._settings = settings
        self._stands = {
            name: _Stand(served, Path(folder), open_one, settings) for name, (served, folder) in folders.items()
        }
        self._decoding = ThreadPoolExecutor(_DECODING_THREADS, thread_name_prefix="picture")
        self._loading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._loading = asyncio.create_task(self._load_all())

    def standing(self) -> tuple[Standing, ...]:
        return tuple(stand.standing() for stand in self._stands.values())

    async def answer(self, question: Question) -> AsyncGenerator[Said, None]:
        """An engine that dies is opened again once, and the question asked again if nothing was said yet."""
        stand = self._stands.get(question.name)
        if stand is None:
            raise UnknownModel(question.name, tuple(self._stands))
        with stand.place():
            # in threads: a large picture takes tens of milliseconds, in which the loop would answer nobody
            loop = asyncio.get_running_loop()
            image = await loop.run_in_executor(self._decoding, decode_image, question.image, self._settings.max_pixels)
            request = LiveRequest(
                key=question.key,
                image=image,
                image_key=question.image_key,
                turns=question.turns,
                sampling=question.sampling,
                seed=question.seed,
                streamed=question.streamed,
            )
            for is_last in (False, True):
                engine = await stand.engine_again()
                served, said = stand.served, False
                try:
                    async with aclosing(engine.generate(request)) as pieces:
                        async for piece in pieces:
                            said = True
                            yield Said(piece, served)
                    return
                except EngineDied:
                    await stand.reopen(engine)
                    if said or is_last:
                        raise

    async def close(self) -> None:
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.wait((self._loading,))
        await asyncio.gather(*(stand.close() for stand in self._stands.values()))
        self._decoding.shutdown(wait=False)

    async def _load_all(self) -> None:
        """One after the other: loading takes all of a small machine."""
        for stand in self._stands.values():
            await stand.load()


class _Stand:
    """One served name: its engine, and who waits for it."""

    def __init__(self, served: Served, folder: Path, open_one: Open, settings: ServeConfig) -> None:
        self.served = served
        self._folder, self._open, self._settings = folder, open_one, settings
        self._engine: LiveEngine | None = None
        self._state: State = "loading"
        self._detail = f"{served.model} is being loaded"
        self._num_inside = 0
        self._seconds_per_answer = 1.0
        self._reopening: asyncio.Task[None] | None = None

    def standing(self) -> Standing:
        served = self.served if self._state == "serving" else None
        return Standing(self.served.name, self._state, served, self._detail)

    def engine(self) -> LiveEngine:
        """Raises NotReady while there is none."""
        if self._engine is None:
            raise NotReady(f"{self.served.name} does not answer now: {self._detail}")
        return self._engine

    async def engine_again(self) -> LiveEngine:
        """For whoever is inside already: waits for an engine that is opened again."""
        if self._engine is None and self._reopening is not None:
            await asyncio.shield(self._reopening)
        return self.engine()

    @contextmanager
    def place(self) -> Iterator[None]:
        """Room for one question. Raises NotReady, Overloaded."""
        engine = self.engine()
        num_waiting = self._num_inside - engine.capacity
        if num_waiting >= self._settings.max_waiting:
            rounds = (num_waiting + 1) / engine.capacity
            seconds = max(1.0, rounds * self._seconds_per_answer)
            raise Overloaded(f"{num_waiting} questions to {self.served.name} wait already", seconds)
        begun = time.monotonic()
        self._num_inside += 1
        try:
            yield
        finally:
            self._num_inside -= 1
        self._seconds_per_answer += 0.1 * (time.monotonic() - begun - self._seconds_per_answer)

    async def load(self) -> None:
        """Open the engine; whether that went well is seen by `standing`."""
        limit = self._settings.load_timeout_seconds
        try:
            engine = await asyncio.wait_for(self._open(self._folder), limit)
        except asyncio.TimeoutError:
            self._state, self._detail = "failed", f"{self.served.model} did not load within {limit:g} s"
        except Exception as error:
            said = str(error) if isinstance(error, Vila2Error) else in_one_line(error)
            self._state, self._detail = "failed", f"{self.served.model} could not be loaded: {said}"
        else:
            self.served = dataclasses.replace(self.served, engine=f"{engine.name} {engine.version}", since=time.time())
            self._engine, self._state, self._detail = engine, "serving", ""

    async def reopen(self, dead: LiveEngine) -> None:
        """In place of `dead`, by the first who saw it die; whoever waits for it may go away."""
        if self._engine is dead:
            self._engine, self._state = None, "loading"
            self._detail = f"{self.served.model} died and is being loaded again"
            self._reopening = asyncio.create_task(self._replace(dead))
        if self._reopening is not None:
            await asyncio.shield(self._reopening)

    async def _replace(self, dead: LiveEngine) -> None:
        await dead.close()
        await self.load()

    async def close(self) -> None:
        if self._reopening is not None:
            self._reopening.cancel()
            await asyncio.wait((self._reopening,))
        engine, self._engine = self._engine, None
        self._state, self._detail = "failed", "the endpoint stops"
        if engine is not None:
            await engine.close()
