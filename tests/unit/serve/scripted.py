"""A captioner without a model: it says what it was asked, piece by piece, and fails in the ways that real ones do."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from PIL import Image

from vila2_ray.captions.prompts import Prompts
from vila2_ray.config.serving import ServeConfig
from vila2_ray.engines.live import Piece
from vila2_ray.errors import EngineDied, NotReady, Overloaded, Reason, SampleError, UnknownModel
from vila2_ray.serve.captioner import Question, Said, Served, Standing

BOXES = "A cat [10,20,300,400] beside the dog [500,100,900,800]."
SETTINGS = ServeConfig(max_tokens=64, default_tokens=32, max_images=4, max_pixels=250_000, max_prompt_characters=500)
PROMPTS = Prompts(("detailed", "brief"))


def served(name: str, model: str = "vlm-1", skill: str = "") -> Served:
    digest = hashlib.sha256(model.encode()).hexdigest()
    return Served(name, model, digest, skill, engine="scripted 1", since=1_763_900_000.0)


def png(colour: str = "red", size: tuple[int, int] = (8, 6)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def data_url(data: bytes) -> str:
    return f"data:image/png;base64,{in_base64(data)}"


def key_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def said_of(data: bytes, text: str, model: str = "vlm-1") -> str:
    """What the captioner answers to the one turn `text` about this picture."""
    return f"{model} sees {key_of(data)[:8]} when asked {text}"


class ScriptedCaptioner:
    """Questions whose last turn has one of these words behave so, all others are answered:

    stall: two pieces, then nothing, ever · silence: nothing, ever · refuse: SampleError · die: EngineDied · midway:
    EngineDied after two pieces · break: an error that nobody foresaw · full: Overloaded · torn: ends without an end ·
    boxes: a text with boxes. Of the picture in `bad`, whatever is asked: SampleError.
    """

    def __init__(self, standings: Sequence[Standing] | None = None, bad: bytes = b"") -> None:
        self.standings = tuple(standings or (Standing("promoted", "serving", served("promoted")),))
        self.bad = key_of(bad)
        self.questions: list[Question] = []
        self.running: set[str] = set()
        """Keys of questions that are being answered."""
        self.aborted: list[str] = []
        """Keys of those that were given up before their end."""
        self.started = self.closed = False
        self.stalled = asyncio.Event()
        """Set when an answer has come to where it stalls."""

    async def start(self) -> None:
        self.started = True

    async def close(self) -> None:
        self.closed = True

    def standing(self) -> tuple[Standing, ...]:
        return self.standings

    def put(self, name: str, by: Served) -> None:
        """From now on `by` answers for `name`."""
        self.standings = tuple(replace(one, served=by) if one.name == name else one for one in self.standings)

    async def answer(self, question: Question) -> AsyncGenerator[Said, None]:
        found = {one.name: one for one in self.standings}
        if question.name not in found:
            raise UnknownModel(question.name, tuple(found))
        by = found[question.name].served
        if by is None:
            raise NotReady(f"{question.name} is being loaded")
        assert question.key not in self.running, "keys are unique"
        self.questions.append(question)
        self.running.add(question.key)
        is_over = False
        try:
            async for piece in self._pieces(question, by):
                is_over = bool(piece.finish_reason)
                yield Said(piece, by)
        finally:
            self.running.discard(question.key)
            if not is_over:
                self.aborted.append(question.key)

    async def _pieces(self, question: Question, by: Served) -> AsyncGenerator[Piece, None]:
        asked = question.turns[-1].text
        script = set(asked.split())
        if "silence" in script:
            await self._stall()
        if "refuse" in script or question.image_key == self.bad:
            raise SampleError(Reason.ENGINE_ERROR, "this cannot be answered")
        if "die" in script:
            raise EngineDied("as it was told to")
        if "break" in script:
            raise RuntimeError("secret internals")
        if "full" in script:
            raise Overloaded("64 wait already", 2.5)
        text = BOXES if "boxes" in script else f"{by.model} sees {question.image_key[:8]} when asked {asked}"
        words = text.split(" ")
        kept = words[: question.sampling.max_tokens]
        for number, word in enumerate(kept[:-1], start=1):
            if number == 3 and "stall" in script:
                await self._stall()
            if number == 3 and "midway" in script:
                raise EngineDied("as it was told to")
            if number == 3 and "torn" in script:
                return
            if question.streamed:
                yield Piece(f"{word} ", number)
            await asyncio.sleep(0)
        last = kept[-1] if question.streamed else " ".join(kept)
        finish_reason = "stop" if len(kept) == len(words) else "length"
        num_prompt_tokens = 10 + sum(len(turn.text.split()) for turn in question.turns)
        logprobs = (-0.5, float("-inf")) if question.with_logprobs else (None, None)
        yield Piece(last, len(kept), finish_reason, num_prompt_tokens, *logprobs)

    async def _stall(self) -> None:
        self.stalled.set()
        await asyncio.Event().wait()
