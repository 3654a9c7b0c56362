"""A closed loop of clients, over HTTP or straight at an engine: how much, how quickly, and was every answer right?

N clients each ask one question after the other. Of the window that is timed all N are busy, before and after it too, so
that neither the beginning nor the last answers count. An answer that lies partly inside counts by that part: answers of
a batch end together, and whole ones would make the rate jump by a batch.

As a process of its own (`python -m trials.clients --port …`) it obeys `trials.orders`. It parses no more than it must,
so that it takes little from a server on the same cores.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REMEMBERED = 64
"""Answers to the first so many pictures are kept, to be compared between ways."""
LONGEST_SECONDS = 120.0


class WrongAnswer(Exception):
    """Another status than 200, or other tokens than were asked for."""


Ask = Callable[[int], Awaitable[None]]
"""Asks about picture n. Raises WrongAnswer or OSError."""


@dataclass(frozen=True)
class Window:
    """What a number of clients saw."""

    clients: int
    seconds: float
    answers_per_second: float
    latencies_ms: list[float]
    """Of the right answers that ended inside the window."""
    failures: list[str]
    """One line for each that was not right, in the window or beside it."""


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile: the smallest value that at least `share` of them do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def share_inside(spans: Sequence[tuple[float, float]], begin: float, end: float) -> float:
    """How many spans lie between `begin` and `end`, parts counted as parts."""
    return sum(max(0.0, min(end, last) - max(begin, first)) / (last - first) for first, last in spans)


async def closed_loop(
    ask: Sequence[Ask], seconds: float, settle: float, numbers: Any, tell: Callable[[str], None] = lambda event: None
) -> Window:
    """Each of `ask` is one client. `numbers` yields pictures' numbers; `tell` hears of the window's begin and end.

    It lasts `seconds`, and on a machine that is slow today until there are as many answers as clients.
    """
    spans: list[tuple[float, float]] = []
    failures: list[str] = []
    begin, end = time.perf_counter() + settle, math.inf

    async def client(index: int, ask_one: Ask) -> None:
        # One after the other: those that begin together stay together, and a server would work in bursts.
        await asyncio.sleep(settle * index / len(ask))
        while (began := time.perf_counter()) < end:
            try:
                await asyncio.wait_for(ask_one(next(numbers)), LONGEST_SECONDS)
            except (WrongAnswer, OSError, asyncio.TimeoutError, asyncio.IncompleteReadError) as error:
                failures.append(f"{type(error).__name__}: {error}"[:300])
                await asyncio.sleep(0.05)  # a server that refuses at once is not to be flooded
                continue
            spans.append((began, time.perf_counter()))

    async def time_it() -> None:
        nonlocal end
        await asyncio.sleep(begin - time.perf_counter())
        tell("begin")
        await asyncio.sleep(begin + seconds - time.perf_counter())
        while sum(last >= begin for _, last in spans) < len(ask) and time.perf_counter() < begin + LONGEST_SECONDS:
            await asyncio.sleep(0.05)
        end = time.perf_counter()
        tell("end")

    await asyncio.gather(time_it(), *(client(index, one) for index, one in enumerate(ask)))
    inside = [1000 * (last - first) for first, last in spans if begin <= last < end]
    return Window(len(ask), end - begin, share_inside(spans, begin, end) / (end - begin), inside, failures)


class Connection:
    """One HTTP/1.1 connection to 127.0.0.1 that is kept alive."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer. Raises OSError or IncompleteReadError where there is none."""
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**22)
        assert self._reader is not None
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        self._writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        try:
            lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            if "chunked" in headers.get("transfer-encoding", ""):
                answer = await self._chunks(self._reader)
            else:
                answer = await self._reader.readexactly(int(headers.get("content-length", 0)))
        except BaseException:  # the connection is in the middle of something: not to be used again
            self.close()
            raise
        if headers.get("connection", "").lower() == "close":
            self.close()
        return int(lines[0].split(" ")[1]), answer

    async def _chunks(self, reader: asyncio.StreamReader) -> bytes:
        parts = []
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            parts.append(await reader.readexactly(size))
            await reader.readexactly(2)
        await reader.readuntil(b"\r\n")
        return b"".join(parts)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


@dataclass(frozen=True)
class Route:
    """How a question is put over HTTP, and how its answer is read."""

    path: str
    before: bytes
    after: bytes
    """The body around the picture in base64."""
    read: Callable[[Any], tuple[str, int]]
    """JSON → text and number of tokens."""

    def body(self, picture: bytes) -> bytes:
        return self.before + base64.b64encode(picture) + self.after


def route(name: str, model: str, prompt: str, tokens: int) -> Route:
    """`captions` of the caption endpoint, or OpenAI's `chat`."""
    sampling = {"max_tokens": tokens, "min_tokens": tokens, "temperature": 0}
    mark = "@picture@"
    if name == "captions":
        body: dict[str, Any] = {"images": [{"data": mark}], "question": prompt, **sampling}
        path, read = "/v1/captions", _read_captions
    else:
        parts = [
            {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{mark}"}},
            {"type": "text", "text": prompt},
        ]
        body = {"model": model, "messages": [{"role": "user", "content": parts}], **sampling}
        path, read = "/v1/chat/completions", _read_chat
    before, after = json.dumps(body).encode().split(mark.encode())
    return Route(path, before, after, read)


def _read_captions(answer: Any) -> tuple[str, int]:
    (caption,) = answer["captions"]
    return caption["text"], caption["usage"]["completion_tokens"]


def _read_chat(answer: Any) -> tuple[str, int]:
    return answer["choices"][0]["message"]["content"], answer["usage"]["completion_tokens"]


class Pictures:
    """Encoded pictures of a folder, by number, over and over."""

    def __init__(self, folder: Path) -> None:
        self.all = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]

    def __getitem__(self, number: int) -> bytes:
        return self.all[number % len(self.all)]


def http_clients(
    connections: Sequence[Connection], put: Route, pictures: Pictures, tokens: int, said: dict[int, str]
) -> list[Ask]:
    """A client for each connection; `said` gets the texts about the first pictures."""

    def client(connection: Connection) -> Ask:
        async def ask(number: int) -> None:
            status, answer = await connection.post(put.path, put.body(pictures[number]))
            if status != 200:
                raise WrongAnswer(f"status {status}: {answer[:200].decode('utf-8', 'replace')}")
            text, num_tokens = put.read(json.loads(answer))
            if num_tokens != tokens:
                raise WrongAnswer(f"{num_tokens} tokens where {tokens} were asked for")
            if number < REMEMBERED:
                said[number] = text

        return ask

    return [client(connection) for connection in connections]


def run(main: Coroutine[Any, Any, None]) -> None:
    """With uvloop where it is installed, as every server here has it."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)
