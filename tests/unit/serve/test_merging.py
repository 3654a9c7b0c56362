"""Pieces that come quickly go out together; text, order and end stay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from vila2_ray.engines.live import Piece
from vila2_ray.errors import EngineDied
from vila2_ray.serve.merging import merged


def test_the_first_goes_out_at_once_and_the_rest_together() -> None:
    async def scenario() -> None:
        first_is_out = asyncio.Event()

        async def words() -> AsyncGenerator[Piece, None]:
            yield Piece("a", 1)
            await first_is_out.wait()
            for k in range(2, 50):
                yield Piece(f" {k}", k)
            yield Piece(" z", 50, "stop", 7, -0.5, -1.0)

        said = []
        async with aclosing(merged(words(), seconds=0.05)) as pieces:
            async for piece in pieces:
                said.append(piece)
                first_is_out.set()
        assert said[0] == Piece("a", 1)
        assert len(said) < 5
        assert "".join(piece.text for piece in said) == " ".join(["a", *map(str, range(2, 50)), "z"])
        assert said[-1].finish_reason == "stop"
        assert (said[-1].num_output_tokens, said[-1].num_prompt_tokens, said[-1].min_logprob) == (50, 7, -1.0)

    asyncio.run(scenario())


@pytest.mark.parametrize("said_before", [0, 1])
def test_errors_come_through_after_what_was_said(said_before: int) -> None:
    async def scenario() -> None:
        async def dying() -> AsyncGenerator[Piece, None]:
            for k in range(said_before):
                yield Piece("a", k)
            raise EngineDied("gone")

        pieces = merged(dying())
        for _ in range(said_before):
            await anext(pieces)
        with pytest.raises(EngineDied):
            await anext(pieces)

    asyncio.run(scenario())


def test_closing_it_closes_what_it_reads() -> None:
    async def scenario() -> None:
        is_closed = asyncio.Event()

        async def endless() -> AsyncGenerator[Piece, None]:
            try:
                yield Piece("a", 1)
                await asyncio.Event().wait()
            finally:
                is_closed.set()

        pieces = merged(endless())
        await anext(pieces)
        await pieces.aclose()
        assert is_closed.is_set()

    asyncio.run(scenario())
