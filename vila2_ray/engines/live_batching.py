"""The engine that serves with transformers: one thread owns the model, and rows come and go between its steps.

On the event loop's side a request waits for its pieces; images are prepared in a second thread, so that a large one
does not hold up the rows that are being decoded. LLaVA-like families are batched continuously, all others batch by
batch (`continuous`).
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image

from vila2_ray.config import SamplingConfig
from vila2_ray.engines.continuous import Continuous, Decoder, Whole
from vila2_ray.engines.lean import pixel_values
from vila2_ray.engines.live import LiveRequest, Piece, Turn
from vila2_ray.engines.rows import Row
from vila2_ray.engines.spelling import Spelling
from vila2_ray.engines.transformers import OUT_OF_MEMORY, TransformersEngine
from vila2_ray.engines.turns import Defusing, conversation
from vila2_ray.errors import CheckpointError, EngineDied, Reason, SampleError, in_one_line


@dataclass(eq=False)
class _Asked:
    """A request in work."""

    row: Row
    streamed: bool
    with_logprobs: bool
    spelling: Spelling
    said: asyncio.Queue[Piece | Exception] = field(default_factory=asyncio.Queue)
    num_spelt: int = 0
    """Tokens that the spelling has seen."""

    def next_piece(self) -> Piece | Exception | None:
        """What there is to say since the last call; None for nothing yet."""
        row = self.row
        if row.is_broken:
            return SampleError(Reason.ENGINE_ERROR, "the model's output is not a number")
        if not self.streamed and not row.finish_reason:
            return None
        text = self.spelling.add(row.token_ids[self.num_spelt :])
        self.num_spelt = len(row.token_ids)
        if not row.finish_reason:
            return Piece(text, self.num_spelt, num_prompt_tokens=row.num_prompt_tokens) if text else None
        return Piece(
            text=text + self.spelling.finish(),
            num_output_tokens=self.num_spelt,
            finish_reason=row.finish_reason,
            num_prompt_tokens=row.num_prompt_tokens,
            mean_logprob=row.mean_logprob if self.with_logprobs else None,
            min_logprob=row.min_logprob if self.with_logprobs else None,
        )


class LiveBatching:
    """Made by `LiveBatching.open`."""

    name = "transformers"
    version = transformers.__version__

    def __init__(self, engine: TransformersEngine) -> None:
        self.capacity = engine.batch_size
        self._engine, self._processor = engine, engine.processor
        self._is_lean = engine.is_lean
        self._loop = asyncio.get_running_loop()
        self._defused = Defusing(engine.processor)
        self._preparing = ThreadPoolExecutor(1, thread_name_prefix="prepare")
        self._inbox: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._death: EngineDied | None = None
        self._work = _Work(engine, self._inbox, self._deliver)
        self._thread = threading.Thread(target=self._run, name="decode", daemon=True)
        self._thread.start()

    @classmethod
    async def open(
        cls,
        folder: Path,
        dtype: torch.dtype,
        device: str,
        capacity: int,
        processor: dict[str, Any] | None = None,
        lean: bool = True,
    ) -> LiveBatching:
        """Loads and captions a grey image. Raises CheckpointError for a folder that cannot be used."""
        loaded = await asyncio.to_thread(TransformersEngine.load, folder, dtype, device, capacity, processor)
        loaded.lean = lean
        engine = cls(loaded)
        try:
            await engine._warm_up(folder)
        except BaseException:
            await asyncio.shield(engine.close())
            raise
        return engine

    async def generate(self, request: LiveRequest) -> AsyncGenerator[Piece, None]:
        """The answer in pieces; a piece is what a step of the engine has added."""
        await self.check()
        row = await self._loop.run_in_executor(self._preparing, self._prepare, request)
        asked = _Asked(row, request.streamed, request.with_logprobs, Spelling(self._processor.tokenizer))
        try:
            await self.check()
            self._inbox.put(asked)
            await self.check()  # whoever empties the inbox for the last time has said before that the engine is dead
            while True:
                said = await asked.said.get()
                if isinstance(said, Exception):
                    raise said
                yield said
                if said.finish_reason:
                    return
        finally:
            row.is_given_up = True

    async def check(self) -> None:
        if self._death is not None:
            raise EngineDied(str(self._death))

    async def close(self) -> None:
        self._death = self._death or EngineDied("the engine was closed")
        self._inbox.put(None)
        await asyncio.shield(asyncio.to_thread(self._thread.join))
        self._preparing.shutdown(wait=False)
        self._engine.close()

    def _prepare(self, request: LiveRequest) -> Row:
        """In its own thread. Raises SampleError for an image or a conversation that is bad."""
        written = conversation(self._processor, self._defused(request.turns))
        row = Row(written, request.image_key, request.image, request.sampling, request.seed)
        if self._is_lean:
            try:
                row.pixels = pixel_values(self._processor, [request.image])
            except Exception as error:  # whatever a family's processor raises about this image
                raise SampleError(Reason.ENGINE_ERROR, in_one_line(error)) from error
        return row

    def _run(self) -> None:
        """The thread that owns the model, until it is closed or dies."""
        try:
            self._work.until_closed()
            why = EngineDied("the engine was closed")
        except Exception as error:
            why = EngineDied(f"the engine reports {in_one_line(error)}")
        self._death = self._death or why
        self._deliver([(asked, EngineDied(str(why))) for asked in self._work.everyone()])

    def _deliver(self, said: list[tuple[_Asked, Piece | Exception]]) -> None:
        """From the engine's thread to the loop; once a step, for all rows."""

        def put() -> None:
            for asked, piece in said:
                asked.said.put_nowait(piece)

        if said and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(put)

    async def _warm_up(self, folder: Path) -> None:
        grey = Image.new("RGB", (64, 64), (127, 127, 127))
        request = LiveRequest("grey", grey, "grey", (Turn("user", "describe"),), SamplingConfig(max_tokens=4), 0)
        try:
            async for _ in self.generate(request):
                pass
        except (EngineDied, SampleError) as error:
            raise CheckpointError(str(folder), f"cannot be used to caption: {error}") from error


class _Work:
    """What the engine's thread does: take requests, begin them as there is room, step, tell."""

    def __init__(self, engine: TransformersEngine, inbox: queue.SimpleQueue[_Asked | None], deliver: Any) -> None:
        self._decoder: Decoder = Continuous(engine) if engine.is_lean else Whole(engine)
        self._capacity = engine.batch_size
        self._inbox, self._deliver = inbox, deliver
        self._waiting: deque[_Asked] = deque()
        self._running: list[_Asked] = []
        self._is_closed = False

    def until_closed(self) -> None:
        """Raises whatever the model raises where no request is to blame."""
        while True:
            self._take(is_idle=not self._decoder.rows and not self._waiting)
            if self._is_closed:
                return
            if self._decoder.takes_more:
                self._begin_waiting()
            self._decoder.step(self._tell)
            self._running = [asked for asked in self._running if not asked.row.is_over]

    def everyone(self) -> list[_Asked]:
        """Who still waits for something, once the thread works no more."""
        while not self._inbox.empty():
            if (asked := self._inbox.get_nowait()) is not None:
                self._waiting.append(asked)
        return [*self._running, *self._waiting]

    def _take(self, is_idle: bool) -> None:
        while is_idle or not self._inbox.empty():
            asked = self._inbox.get()
            is_idle = False
            if asked is None:
                self._is_closed = True
                return
            self._waiting.append(asked)

    def _begin_waiting(self) -> None:
        if any(asked.row.is_given_up for asked in self._waiting):  # with their pictures
            self._waiting = deque(asked for asked in self._waiting if not asked.row.is_given_up)
        newcomers: list[_Asked] = []
        while self._waiting and len(self._running) + len(newcomers) < self._capacity:
            asked = self._waiting.popleft()
            if not asked.row.is_given_up:
                newcomers.append(asked)
        if newcomers:
            self._begin(newcomers)
            self._tell()

    def _begin(self, newcomers: Sequence[_Asked]) -> None:
        """Halve a group that raises until the request is alone that is to blame."""
        try:
            self._decoder.begin([asked.row for asked in newcomers])
        except torch.AcceleratorError:
            raise
        except Exception as error:  # whatever a family's processor or model raises, the others go on
            self._begin_fewer(newcomers, error)
        else:
            self._running += newcomers

    def _begin_fewer(self, newcomers: Sequence[_Asked], error: Exception) -> None:
        out_of_memory = isinstance(error, OUT_OF_MEMORY)
        if out_of_memory:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if self._decoder.rows:  # they fit when fewer run
                self._capacity = max(1, len(self._running))
                self._waiting.extendleft(reversed(newcomers))
                return
        if len(newcomers) == 1:
            problem = "does not fit into memory even alone" if out_of_memory else in_one_line(error)
            known = error if isinstance(error, SampleError) else SampleError(Reason.ENGINE_ERROR, problem)
            self._deliver([(newcomers[0], known)])
            return
        half = (len(newcomers) + 1) // 2
        for part in (newcomers[:half], newcomers[half:]):
            if self._decoder.takes_more:
                self._begin(part)
            else:
                self._waiting.extendleft(reversed(part))

    def _tell(self) -> None:
        said = [(asked, piece) for asked in self._running if (piece := asked.next_piece()) is not None]
        self._running = [asked for asked in self._running if not asked.row.is_over]
        self._deliver(said)
