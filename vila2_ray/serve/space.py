"""A bound on what is in hand at once, where its parts differ in size. Belongs to one event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator


class Space:
    """`size` of something; who finds too little left waits, first come, first served."""

    def __init__(self, size: int) -> None:
        self.size, self.left = size, size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @contextlib.asynccontextmanager
    async def taken(self, amount: int) -> AsyncIterator[None]:
        """Hold so much of it; more than all of it counts as all."""
        amount = min(amount, self.size)
        await self._take(amount)
        try:
            yield
        finally:
            self._give(amount)

    async def _take(self, amount: int) -> None:
        if amount <= self.left and not self._waiting:
            self.left -= amount
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((amount, turn))
        try:
            await turn
        except asyncio.CancelledError:
            has_got_it = turn.done() and not turn.cancelled()
            with contextlib.suppress(ValueError):
                self._waiting.remove((amount, turn))
            self._give(amount if has_got_it else 0)
            raise

    def _give(self, amount: int) -> None:
        self.left += amount
        while self._waiting and self._waiting[0][0] <= self.left:
            wanted, turn = self._waiting.popleft()
            if not turn.cancelled():
                self.left -= wanted
                turn.set_result(None)
