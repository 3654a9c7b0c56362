"""A closed loop of clients, over HTTP or straight at an engine: how much, how quickly, and was every answer right?

N clients each ask one question after the other. Of the window that is timed all N are busy, before and after it too, so
that neither the beginning nor the last answers count. An answer that lies partly inside counts by that part: answers of
a batch end together, and whole ones would make the rate jump by a batch.

As a process of its own (`python -m trials.load --port …`) it prints JSON lines: what it is about to time, and each
window that it has timed. It parses no more than it must, so that it takes little from a server on the same cores.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

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
    """Each of `ask` is one client. `numbers` yields pictures' numbers; `tell` hears of the window's begin and end."""
    spans: list[tuple[float, float]] = []
    failures: list[str] = []
    start = time.perf_counter()
    begin, end = start + settle, start + settle + seconds

    async def client(ask_one: Ask) -> None:
        while (began := time.perf_counter()) < end:
            try:
                await asyncio.wait_for(ask_one(next(numbers)), LONGEST_SECONDS)
            except (WrongAnswer, OSError, asyncio.TimeoutError, asyncio.IncompleteReadError) as error:
                failures.append(f"{type(error).__name__}: {error}"[:300])
                await asyncio.sleep(0.05)  # a server that refuses at once is not to be flooded
                continue
            spans.append((began, time.perf_counter()))

    async def announce() -> None:
        await asyncio.sleep(begin - time.perf_counter())
        tell("begin")
        await asyncio.sleep(end - time.perf_counter())
        tell("end")

    await asyncio.gather(announce(), *map(client, ask))
    inside = [1000 * (last - first) for first, last in spans if begin <= last < end]
    return Window(len(ask), share_inside(spans, begin, end) / seconds, inside, failures)


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


def http_clients(num: int, port: int, put: Route, pictures: Pictures, tokens: int, said: dict[int, str]) -> list[Ask]:
    """Clients with a connection each; `said` gets the texts about the first pictures."""

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

    return [client(Connection(port)) for _ in range(num)]


_told_to: list[TextIO] = [sys.stdout]


def keep_stdout() -> None:
    """Lines go to stdout; what others print, here and in child processes, to stderr. A child that stays behind does not
    hold the pipe open."""
    _told_to[0] = os.fdopen(os.dup(1), "w")  # not inherited
    os.dup2(2, 1)


def print_line(**told: Any) -> None:
    print(json.dumps(told), file=_told_to[0], flush=True)


async def levels(
    make: Callable[[int], list[Ask]], counts: Sequence[int], seconds: float, settle: float, said: dict[int, str]
) -> None:
    """Time a window for each number of clients, after a warm-up, and print what was found."""
    numbers = itertools.count()
    await closed_loop(make(8), max(settle, 2.0), 0.0, numbers)
    for count in counts:
        window = await closed_loop(
            make(count), seconds, settle, numbers, lambda event, count=count: print_line(event=event, clients=count)
        )
        if not window.latencies_ms:
            raise SystemExit(f"{count} clients got no right answer within {seconds} s: {window.failures[:3]}")
        print_line(event="window", **asdict(window))
    print_line(event="said", texts=[said.get(number, "").strip() for number in range(REMEMBERED)])


def run(main: Coroutine[Any, Any, None]) -> None:
    """With uvloop where it is installed, as every server here has it."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What both the engine asked directly and the clients over HTTP must know."""
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--clients", type=int, nargs="+", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--settle", type=float, required=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_options(parser)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--route", choices=["captions", "chat"], required=True)
    parser.add_argument("--model", default="")
    options = parser.parse_args()
    put = route(options.route, options.model, options.prompt, options.tokens)
    pictures, said = Pictures(options.pictures), dict[int, str]()

    def make(num: int) -> list[Ask]:
        return http_clients(num, options.port, put, pictures, options.tokens, said)

    cpu = time.process_time()
    run(levels(make, options.clients, options.seconds, options.settle, said))
    print_line(event="client", cpu_seconds=time.process_time() - cpu)


if __name__ == "__main__":
    main()
