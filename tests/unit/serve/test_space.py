"""Whoever comes, goes or gives up: never more is held than there is, and nobody is passed over."""

from __future__ import annotations

import asyncio
import random

from vila2_ray.serve.space import Space


async def turns() -> None:
    """Let everybody go as far as they get."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_first_come_first_served() -> None:
    async def scenario() -> None:
        space, order = Space(10), list[str]()
        ends = {name: asyncio.Event() for name in "abcd"}

        async def hold(name: str, amount: int) -> None:
            async with space.taken(amount):
                order.append(name)
                await ends[name].wait()

        sizes = {"a": 6, "b": 99, "c": 1, "d": 4}
        tasks = {name: asyncio.create_task(hold(name, amount)) for name, amount in sizes.items()}
        await turns()
        assert order == ["a"], "c would fit, but b came first"
        ends["a"].set()
        await turns()
        assert order == ["a", "b"]
        assert space.left == 0, "more than all of it is all of it"
        ends["b"].set()
        await turns()
        assert order == ["a", "b", "c", "d"]
        ends["c"].set()
        ends["d"].set()
        await asyncio.gather(*tasks.values())
        assert space.left == 10

    asyncio.run(scenario())


def test_who_gives_up_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        space, chance, held = Space(7), random.Random(1), [0]

        async def hold(amount: int) -> None:
            async with space.taken(amount):
                held[0] += amount
                assert held[0] <= 7
                try:
                    for _ in range(chance.randrange(4)):
                        await asyncio.sleep(0)
                finally:
                    held[0] -= amount

        tasks = [asyncio.create_task(hold(chance.randrange(1, 8))) for _ in range(300)]
        for task in tasks:
            if chance.random() < 0.5:
                task.cancel()
            if chance.random() < 0.5:
                await asyncio.sleep(0)
        await asyncio.wait(tasks)
        assert all(task.cancelled() or task.exception() is None for task in tasks)
        assert space.left == 7

    asyncio.run(scenario())
