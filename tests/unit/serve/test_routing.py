"""Questions keep the version that they began with; what is lost before it said anything is asked once more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace

import pytest

from tests.unit.serve.scripted import png, served
from vila2_ray.config import SamplingConfig
from vila2_ray.engines.live import Piece, Turn
from vila2_ray.errors import EngineDied, NotReady, UnknownModel
from vila2_ray.serve.captioner import Question, Standing
from vila2_ray.serve.routing import Route, RoutingCaptioner, Table


def question(name: str = "promoted", text: str = "what is it", streamed: bool = True) -> Question:
    return Question("k", name, png(), "0" * 64, (Turn("user", text),), SamplingConfig(), 0, streamed)


@dataclass
class Line:
    """Says its key in two pieces."""

    key: str
    deaths: list[str]
    """At each question one is taken: `before` or `midway`."""
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    is_warm: bool = False
    is_closed: bool = False
    num_open: int = 0

    async def warm(self) -> None:
        self.is_warm = True

    async def pieces(self, question: Question) -> AsyncGenerator[Piece, None]:
        death = self.deaths.pop(0) if self.deaths else ""
        self.num_open += 1
        try:
            if death == "before":
                raise EngineDied("gone")
            yield Piece(self.key, 1)
            if death == "midway":
                raise EngineDied("gone")
            if question.turns[-1].text == "wait":
                await self.gate.wait()
            yield Piece(f" {self.key}", 2, "stop")
        finally:
            self.num_open -= 1

    def close(self) -> None:
        self.is_closed = True


class Source:
    """Tables as a test says them."""

    def __init__(self) -> None:
        self.tables: asyncio.Queue[Table | Exception] = asyncio.Queue()

    async def table(self, mark: str) -> Table:
        said = await self.tables.get()
        if isinstance(said, Exception):
            raise said
        return said


class World:
    def __init__(self) -> None:
        self.lines: dict[str, Line] = {}
        self.deaths: dict[str, list[str]] = {}
        self.source = Source()
        self.captioner = RoutingCaptioner(self.source, self.open, ("promoted", "ocr"))

    def open(self, key: str) -> Line:
        self.lines[key] = Line(key, self.deaths.setdefault(key, []))
        return self.lines[key]

    async def route(self, mark: str, key: str) -> None:
        told = replace(served("promoted"), model=key)
        standing = (Standing("promoted", "serving" if key else "loading", told if key else None, "it drains"),)
        await self.captioner.take(Table(mark, {"promoted": Route(key, told)} if key else {}, standing))

    async def ask(self, text: str = "what is it") -> tuple[str, set[str]]:
        async with aclosing(self.captioner.answer(question(text=text))) as pieces:
            said = [each async for each in pieces]
        return "".join(each.piece.text for each in said), {each.by.model for each in said}


def test_a_question_ends_where_it_began() -> None:
    async def scenario() -> None:
        world = World()
        with pytest.raises(NotReady):
            await world.ask()
        await world.route("1", "a")
        assert world.lines["a"].is_warm
        assert await world.ask() == ("a a", {"a"})
        slow = asyncio.create_task(world.ask("wait"))
        while not world.lines["a"].num_open:
            await asyncio.sleep(0)
        await world.route("2", "b")
        assert await world.ask() == ("b b", {"b"})
        assert world.lines["a"].is_closed
        world.lines["a"].gate.set()
        assert await slow == ("a a", {"a"})
        await world.route("3", "")
        with pytest.raises(NotReady, match="it drains"):
            await world.ask()
        with pytest.raises(UnknownModel):
            await anext(world.captioner.answer(question("vlm-9")))
        assert world.captioner.standing()[0].state == "loading"

    asyncio.run(scenario())


def test_what_is_lost_is_asked_once_more_unless_something_was_said() -> None:
    async def scenario() -> None:
        world = World()
        await world.route("1", "a")
        world.deaths["a"][:] = ["before"]
        assert await world.ask() == ("a a", {"a"})
        for deaths in (["before", "before"], ["midway"]):
            world.deaths["a"][:] = deaths
            with pytest.raises(EngineDied):
                await world.ask()
            assert not world.deaths["a"]
        assert world.lines["a"].num_open == 0

    asyncio.run(scenario())


def test_closing_an_answer_closes_the_work() -> None:
    async def scenario() -> None:
        world = World()
        await world.route("1", "a")
        answer = world.captioner.answer(question(text="wait"))
        await anext(answer)
        assert world.lines["a"].num_open == 1
        await answer.aclose()
        assert world.lines["a"].num_open == 0

    asyncio.run(scenario())


def test_the_last_table_holds_while_the_follower_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vila2_ray.serve.routing.RETRY_SECONDS", 0.0)

    async def scenario() -> None:
        world = World()
        await world.captioner.start()
        for key, mark in (("a", "1"), ("b", "2")):
            world.source.tables.put_nowait(ConnectionError("the follower is dead"))
            world.source.tables.put_nowait(Table(mark, {"promoted": Route(key, served("promoted"))}))
            while not any(served.key == key for served in world.captioner._table.routes.values()):
                await asyncio.sleep(0)
        await world.captioner.close()
        assert all(line.is_closed for line in world.lines.values())

    asyncio.run(scenario())
