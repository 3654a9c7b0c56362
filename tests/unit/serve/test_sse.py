from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from tests.unit.serve.rawasgi import PATIENCE_SECONDS
from vila2_ray.serve.sse import EventStream, encode


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_one_line_of_data(text: str) -> None:
    written = encode({"text": text}, "piece").decode()
    name, data, *rest = written.split("\n")
    assert (name, rest) == ("event: piece", ["", ""])
    assert json.loads(data.removeprefix("data: ")) == {"text": text}


def test_events_without_a_name() -> None:
    assert encode({"a": "é"}) == 'data: {"a":"é"}\n\n'.encode()


def stream(events: AsyncGenerator[bytes, None], **options: Any) -> EventStream[bytes]:
    return EventStream([b"data: 1\n\n"], events, bytes, last=b"data: end\n\n", **options)


class Reader:
    """Whoever reads a stream."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.gone, self.sent = asyncio.Event(), asyncio.Event()

    async def receive(self) -> Message:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.messages.append(message)
        self.sent.set()

    async def read(self, stream: EventStream) -> None:
        await asyncio.wait_for(stream({"type": "http"}, self.receive, self.send), PATIENCE_SECONDS)

    async def until(self, num: int) -> None:
        while len(self.messages) < num:
            self.sent.clear()
            await asyncio.wait_for(self.sent.wait(), PATIENCE_SECONDS)


class Told:
    """Events, and whether their generator was closed."""

    def __init__(self, *events: bytes, ends: bool = True) -> None:
        self.given, self.ends, self.closed = events, ends, False

    async def events(self) -> AsyncGenerator[bytes, None]:
        try:
            for event in self.given:
                yield event
            if not self.ends:
                await asyncio.Event().wait()
        finally:
            self.closed = True


def test_a_whole_stream() -> None:
    async def work() -> None:
        reader, told = Reader(), Told(b"data: 2\n\n")
        await reader.read(stream(told.events(), seconds=60, headers={"X-Here": "yes"}))
        head, *events, end = reader.messages
        assert dict(head["headers"])[b"content-type"].startswith(b"text/event-stream")
        assert dict(head["headers"])[b"x-here"] == b"yes"
        assert [event["body"] for event in events] == [b"data: 1\n\n", b"data: 2\n\n"]
        assert end == {"type": "http.response.body", "body": b"data: end\n\n", "more_body": False}
        assert told.closed

    asyncio.run(work())


def test_it_ends_when_the_reader_leaves() -> None:
    async def work() -> None:
        reader, told = Reader(), Told(ends=False)
        reading = asyncio.ensure_future(reader.read(stream(told.events(), seconds=3600)))
        await reader.until(2)
        assert not told.closed
        reader.gone.set()
        await reading
        assert told.closed
        assert len(reader.messages) == 2

    asyncio.run(work())


def test_it_ends_when_nobody_reads_on() -> None:
    async def work() -> None:
        reader, told = Reader(), Told(ends=False)
        await reader.read(stream(told.events(), seconds=0.05))
        assert told.closed

    asyncio.run(work())


def test_silence_is_filled_with_comments() -> None:
    async def work() -> None:
        reader, told = Reader(), Told(ends=False)
        slow = stream(told.events(), seconds=3600, heartbeat_seconds=0.01)
        reading = asyncio.ensure_future(reader.read(slow))
        await reader.until(4)
        reader.gone.set()
        await reading
        assert all(message["body"].startswith(b":") for message in reader.messages[2:])
        assert told.closed

    asyncio.run(work())


def test_an_error_on_the_way_leaves_the_stream_open_ended() -> None:
    async def events() -> AsyncGenerator[bytes, None]:
        yield b"data: 2\n\n"
        raise ValueError("ours")

    async def work() -> None:
        reader = Reader()
        with pytest.raises(ValueError, match="ours"):
            await reader.read(stream(events(), seconds=60))
        assert reader.messages[-1]["more_body"]

    asyncio.run(work())
