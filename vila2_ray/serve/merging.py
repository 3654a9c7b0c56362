"""Fewer, longer pieces: what a fast model says within a few milliseconds travels as one message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import replace

from vila2_ray.engines.live import Piece

MERGE_SECONDS = 0.02


async def merged(pieces: AsyncGenerator[Piece, None], seconds: float = MERGE_SECONDS) -> AsyncGenerator[Piece, None]:
    """The same text. The first piece goes out at once, those that come within `seconds` of one go out together.

    Closing it closes `pieces`.
    """
    waiting: list[Piece] = []
    came = asyncio.Event()

    async def pump() -> None:
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    waiting.append(piece)
                    came.set()
        finally:
            came.set()

    task = asyncio.create_task(pump())
    try:
        while True:
            await came.wait()
            came.clear()
            if waiting:
                together = joined(waiting)
                waiting.clear()
                yield together
                if together.finish_reason:
                    break
            elif task.done():
                break
            if not task.done():
                await asyncio.wait((task,), timeout=seconds)
            else:
                came.set()
        await task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task


def joined(pieces: list[Piece]) -> Piece:
    """Several pieces of an answer, one after the other, as one."""
    return replace(pieces[-1], text="".join(piece.text for piece in pieces))
