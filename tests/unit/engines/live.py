"""To ask an engine that serves what the stepped engines are asked."""

from __future__ import annotations

from contextlib import aclosing

from vila2_ray.engines.base import GenerationRequest
from vila2_ray.engines.live import LiveEngine, LiveRequest, Piece, Turn


def live(request: GenerationRequest, streamed: bool = True) -> LiveRequest:
    """The same question."""
    return LiveRequest(
        key="/".join(map(str, request.key)) + ("" if streamed else " whole"),
        image=request.image,
        image_key=request.image_key,
        turns=(Turn("user", request.prompt),),
        sampling=request.sampling,
        seed=request.seed,
        streamed=streamed,
        with_logprobs=True,
    )


async def ask(engine: LiveEngine, request: LiveRequest) -> list[Piece]:
    """All pieces; the last one alone says why it is the last."""
    async with aclosing(engine.generate(request)) as generator:
        pieces = [piece async for piece in generator]
    assert [bool(piece.finish_reason) for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    return pieces


def whole(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)
