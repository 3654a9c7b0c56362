"""One engine on one checkpoint and what stands before it: loading, the smoke caption, decoding, a bound on waiting."""

from __future__ import annotations

import asyncio
import io
import math
import time
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any

from vila2_ray.config import EngineConfig, SamplingConfig
from vila2_ray.corpus.images import decode_image, image_size
from vila2_ray.engines.choice import open_live_engine
from vila2_ray.engines.live import LiveEngine, LiveRequest, Piece, Turn
from vila2_ray.errors import CheckpointError, Overloaded
from vila2_ray.serve.captioner import Question
from vila2_ray.serve.space import Space
from vila2_ray.serve.states import Version
from vila2_ray.storage import Store

SMOKE_TOKENS = 16
MOST_PICTURES = 16
"""Of the largest size that is allowed, in memory at once; of smaller ones as many more."""


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker needs to start anywhere."""

    version: Version
    folder: str
    """URI of the checkpoint."""
    engine: EngineConfig
    settings: dict[str, Any]
    """Keyword arguments of `open_live_engine`."""
    max_waiting: int
    max_pixels: int
    smoke_prompt: str
    """One that the campaign asks: a small model need not understand any other."""


class Worker:
    """Made by `Worker.open`, in the event loop that will ask it."""

    def __init__(self, spec: WorkerSpec, engine: LiveEngine) -> None:
        self.spec, self.engine = spec, engine
        self.num_in_hand = 0
        """Questions that run or wait."""
        self._answer_seconds = 1.0  # a running mean
        self._pixels = Space(MOST_PICTURES * spec.max_pixels)
        self._threads = ThreadPoolExecutor(max(1, spec.engine.decode_threads), "decode")

    @classmethod
    async def open(cls, spec: WorkerSpec) -> Worker:
        """Raises CheckpointError, ConfigError, StorageError."""
        folder = await asyncio.to_thread(Store(spec.folder).local_folder)
        if spec.engine.name != "fake":
            await asyncio.to_thread(_check_digest, folder, spec.version)
        return cls(spec, await open_live_engine(spec.engine, folder, **spec.settings))

    @property
    def label(self) -> str:
        """Which engine and version answers."""
        return f"{self.engine.name} {self.engine.version}"

    def answer(self, question: Question) -> AsyncGenerator[Piece, None]:
        """Raises Overloaded at once; SampleError and EngineDied where the first piece is awaited."""
        limit = self.engine.capacity + self.spec.max_waiting
        if self.num_in_hand >= limit:
            rounds = (self.num_in_hand - self.engine.capacity + 1) / self.engine.capacity
            detail = f"{self.num_in_hand} questions run or wait already"
            raise Overloaded(detail, math.ceil(max(1.0, rounds * self._answer_seconds)))
        return self._answer(question)

    async def _answer(self, question: Question) -> AsyncGenerator[Piece, None]:
        self.num_in_hand += 1
        began = time.monotonic()
        try:
            # Decoded, a small file may take a hundred megabytes: what waits for an engine waits encoded.
            num_pixels = math.prod(image_size(question.image, self.spec.max_pixels))
            async with (
                self._pixels.taken(num_pixels),
                aclosing(self.engine.generate(await self._request(question))) as pieces,
            ):
                async for piece in pieces:
                    yield piece
            self._answer_seconds += 0.1 * (time.monotonic() - began - self._answer_seconds)
        finally:
            self.num_in_hand -= 1

    async def _request(self, question: Question) -> LiveRequest:
        loop = asyncio.get_running_loop()
        image = await loop.run_in_executor(self._threads, decode_image, question.image, self.spec.max_pixels)
        return LiveRequest(
            question.key, image, question.image_key, question.turns, question.sampling, question.seed,
            question.streamed, question.with_logprobs,
        )  # fmt: skip

    async def smoke(self) -> None:
        """Caption the smoke picture, however many wait.

        Raises CheckpointError where what comes is no caption, SampleError and EngineDied.
        """
        async with aclosing(self._answer(smoke_question(self.spec.version.name, self.spec.smoke_prompt))) as pieces:
            said = [piece async for piece in pieces]
        text, likely = "".join(piece.text for piece in said), said[-1].mean_logprob
        is_finite = likely is None or math.isfinite(likely)
        if not is_finite or not any(character.isalnum() for character in text):
            problem = f"its smoke caption is {text[:80]!r} with mean log-probability {likely}"
            raise CheckpointError(self.spec.version.target.label, problem, "It is not put to service")

    async def close(self) -> None:
        self._threads.shutdown(wait=False)
        await self.engine.close()


@lru_cache(maxsize=1)
def smoke_picture() -> bytes:
    """A PNG that every model can say something about: a red disc on a white ground."""
    from PIL import Image, ImageDraw

    picture, out = Image.new("RGB", (96, 96), "white"), io.BytesIO()
    ImageDraw.Draw(picture).ellipse((16, 16, 80, 80), fill="red")
    picture.save(out, "PNG")
    return out.getvalue()


def smoke_question(name: str, prompt: str) -> Question:
    data = smoke_picture()
    turns, sampling = (Turn("user", prompt),), SamplingConfig(max_tokens=SMOKE_TOKENS)
    key = f"smoke-{name}-{time.time_ns()}"
    image_key = sha256(data).hexdigest()
    # That a model's output is not a number shows in its log-probabilities alone.
    return Question(key, name, data, image_key, turns, sampling, seed=0, streamed=False, with_logprobs=True)


def _check_digest(folder: Any, version: Version) -> None:
    """Training a model again puts other weights into the same folder; a pin means those that it was said about."""
    from vila2_ray.model.loading import checkpoint_digest

    if (found := checkpoint_digest(folder)) != version.target.digest:
        problem = f"holds other weights ({found[:12]}) than {version.target.label}: it was trained again since"
        raise CheckpointError(str(folder), problem, "Pin what is there now, or take the pin back")
