"""The fake engine while it serves: the words of `engines.fake`, one at a time, and its ways to fail. Pure.

A request is a sequence of waits on the event loop; nothing is computed. What it says is `fake_caption` of the image's
pixels and of the texts of all turns, so that a test can tell whose answer, and which checkpoint's, it looks at.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from pathlib import Path

from vila2_ray.engines.fake import FakeBehaviour, fake_caption, fake_problem, fake_share, pixels_digest
from vila2_ray.engines.live import LiveRequest, Piece
from vila2_ray.errors import CheckpointError, EngineDied


class LiveFake:
    """Made by `LiveFake.open`, or out of a behaviour at once."""

    name = "fake"
    version = "1"

    def __init__(self, capacity: int = 128, behaviour: FakeBehaviour | None = None) -> None:
        self.capacity = capacity
        self.behaviour = behaviour or FakeBehaviour()
        self.num_running = 0
        """Requests that have a place; tests look at it."""
        self.num_aborted = 0
        """Requests that were given up before their last piece."""
        self._num_begun = 0
        self._places = asyncio.Semaphore(capacity)
        self._gone = asyncio.Event()
        self._why = ""

    @classmethod
    async def open(cls, folder: Path, capacity: int) -> LiveFake:
        """As slowly as its `fake.json` says. Raises CheckpointError where that says so."""
        behaviour = FakeBehaviour.read(Path(folder))
        await asyncio.sleep(behaviour.seconds_to_load)
        if behaviour.load_failure:
            raise CheckpointError(str(folder), behaviour.load_failure)
        return cls(capacity, behaviour)

    async def generate(self, request: LiveRequest) -> AsyncGenerator[Piece, None]:
        """The answer, a piece for every word."""
        is_over = False
        async with self._places:
            self.num_running += 1
            try:
                async with aclosing(self._pieces(request)) as pieces:
                    async for piece in pieces:
                        is_over = bool(piece.finish_reason)
                        yield piece
            except (asyncio.CancelledError, GeneratorExit):
                if not is_over:
                    self._note_abort()
                raise
            finally:
                self.num_running -= 1

    async def check(self) -> None:
        if self._gone.is_set():
            raise EngineDied(self._why)

    async def close(self) -> None:
        self._die("the engine was closed")

    async def _pieces(self, request: LiveRequest) -> AsyncGenerator[Piece, None]:
        await self.check()
        self._num_begun += 1
        try:
            self._maybe_die(request.image_key)
        except EngineDied as death:
            self._die(str(death))
            raise
        await self._pass(self.behaviour.seconds_per_step)
        if self.behaviour.fails(request.image_key):
            raise fake_problem()
        words = self._words(request)
        kept = words[: request.sampling.max_tokens]
        share = fake_share(words)
        num_prompt_tokens = 1 + sum(len(turn.text.split()) for turn in request.turns)
        for number, word in enumerate(kept[:-1], start=1):
            if request.streamed:
                yield Piece(word if number == 1 else f" {word}", number, num_prompt_tokens=num_prompt_tokens)
            await self._pass(self.behaviour.seconds_per_token)
        yield Piece(
            text=(" " * (len(kept) > 1) + kept[-1]) if request.streamed else " ".join(kept),
            num_output_tokens=len(kept),
            finish_reason="stop" if len(kept) == len(words) else "length",
            num_prompt_tokens=num_prompt_tokens,
            mean_logprob=-share if request.with_logprobs else None,
            min_logprob=-2 * share if request.with_logprobs else None,
        )

    def _words(self, request: LiveRequest) -> list[str]:
        digest = pixels_digest(request.image.size, request.image.tobytes())
        asked = " ".join(turn.text.strip() for turn in request.turns)
        seed = request.seed if request.sampling.temperature else 0
        return fake_caption(digest, asked, seed, self.behaviour.signature).split()

    def _maybe_die(self, image_key: str) -> None:
        behaviour = self.behaviour
        if behaviour.die_after_steps and self._num_begun > behaviour.die_after_steps:
            behaviour.die(f"after {behaviour.die_after_steps} requests")
        if behaviour.kills(image_key):
            behaviour.die("of an image")

    async def _pass(self, seconds: float) -> None:
        """Wait, but no longer than the engine lives."""
        if seconds:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._gone.wait(), seconds)
        else:
            await asyncio.sleep(0)
        await self.check()

    def _die(self, why: str) -> None:
        if not self._gone.is_set():
            self._why = why
            self._gone.set()

    def _note_abort(self) -> None:
        self.num_aborted += 1
        if self.behaviour.note_aborts and self.behaviour.folder:
            folder = Path(self.behaviour.folder)
            folder.joinpath(f"aborted-{len(list(folder.glob('aborted-*')))}").touch()
