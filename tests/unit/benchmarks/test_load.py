"""The benchmark's clients: what they count, and that they see through a server that answers wrongly."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.trials.load import (
    Connection,
    Pictures,
    WrongAnswer,
    closed_loop,
    http_clients,
    percentile,
    route,
    share_inside,
)


def test_percentiles_are_values_that_were_seen() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert percentile(values, 0.5) == 3.0
    assert percentile(values, 0.99) == 5.0
    assert percentile(values, 0.0) == 1.0
    assert percentile([7.0], 0.5) == 7.0


def test_answers_partly_inside_the_window_count_by_their_part() -> None:
    assert share_inside([(0.0, 2.0)], 1.0, 3.0) == 0.5
    assert share_inside([(1.0, 2.0), (2.0, 6.0), (5.0, 6.0)], 1.0, 3.0) == 1.25


def test_every_client_is_busy_with_one_question_at_a_time() -> None:
    asked: list[int] = []
    at_once = most = 0

    async def ask(number: int) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        asked.append(number)
        await asyncio.sleep(0.01)
        at_once -= 1

    heard: list[str] = []
    window = asyncio.run(closed_loop([ask] * 4, 0.2, 0.05, itertools.count(), heard.append))
    assert (most, heard, window.failures) == (4, ["begin", "end"], [])
    assert asked == list(range(len(asked)))
    assert 0 < len(window.latencies_ms) < len(asked)
    assert all(latency >= 9 for latency in window.latencies_ms)
    # Little's law: clients = rate × time, whatever the machine does meanwhile
    mean = sum(window.latencies_ms) / len(window.latencies_ms) / 1000
    assert window.answers_per_second * mean == pytest.approx(4, rel=0.35)


def test_a_slow_machine_is_waited_for() -> None:
    async def ask(number: int) -> None:
        await asyncio.sleep(0.2)

    window = asyncio.run(closed_loop([ask] * 2, 0.01, 0.0, itertools.count()))
    assert len(window.latencies_ms) >= 2
    assert window.seconds >= 0.2


def test_a_wrong_answer_is_told_and_not_counted() -> None:
    async def ask(number: int) -> None:
        await asyncio.sleep(0.005)
        if number % 2:
            raise WrongAnswer("of another colour")

    window = asyncio.run(closed_loop([ask], 0.2, 0.0, itertools.count()))
    assert window.failures[0] == "WrongAnswer: of another colour"
    assert window.latencies_ms


ANSWERS = {
    "/v1/captions": {"captions": [{"text": "a cat", "usage": {"completion_tokens": 3}}]},
    "/v1/chat/completions": {"choices": [{"message": {"content": "a cat"}}], "usage": {"completion_tokens": 3}},
}


class Trivial:
    """An HTTP server that remembers what it was asked; every other answer comes in chunks."""

    def __init__(self, status: int = 200) -> None:
        self.status, self.bodies, self.num_connections = status, list[Any](), 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next(int(line[15:]) for line in head.split("\r\n") if line.startswith("Content-Length:"))
                self.bodies.append(json.loads(await reader.readexactly(length)))
                answer = json.dumps(ANSWERS[head.split(" ")[1]]).encode()
                begin = f"HTTP/1.1 {self.status} X\r\n".encode()
                if len(self.bodies) % 2:
                    writer.write(begin + f"content-length: {len(answer)}\r\n\r\n".encode() + answer)
                else:
                    parts = b"".join(f"{len(p):x}\r\n".encode() + p + b"\r\n" for p in (answer[:9], answer[9:]))
                    writer.write(begin + b"transfer-encoding: chunked\r\n\r\n" + parts + b"0\r\n\r\n")
        except asyncio.IncompleteReadError:
            writer.close()


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(bytes([number] * 4))
    return Pictures(tmp_path)


def ask_all(server: Trivial, name: str, pictures: Pictures, tokens: int, num: int = 4) -> dict[int, str]:
    """`num` questions by one client; what was said."""
    said: dict[int, str] = {}

    async def run() -> None:
        listening = await asyncio.start_server(server, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        (ask,) = http_clients([Connection(port)], route(name, "vlm-0", "what is it?", tokens), pictures, tokens, said)
        try:
            for number in range(num):
                await ask(number)
        finally:
            listening.close()

    asyncio.run(run())
    return said


def test_captions_are_asked_for_over_one_connection(pictures: Pictures) -> None:
    server = Trivial()
    assert ask_all(server, "captions", pictures, tokens=3) == dict.fromkeys(range(4), "a cat")
    assert server.num_connections == 1
    sent = [base64.b64decode(body["images"][0]["data"]) for body in server.bodies]
    assert sent == [bytes([number % 3] * 4) for number in range(4)]
    assert server.bodies[0]["question"] == "what is it?"
    assert (server.bodies[0]["min_tokens"], server.bodies[0]["max_tokens"]) == (3, 3)


def test_chat_is_asked_in_openai_s_form(pictures: Pictures) -> None:
    server = Trivial()
    assert ask_all(server, "chat", pictures, tokens=3, num=2) == {0: "a cat", 1: "a cat"}
    image, text = server.bodies[0]["messages"][0]["content"]
    assert image["image_url"]["url"] == "data:image/jpeg;base64," + base64.b64encode(bytes(4)).decode()
    assert (text["text"], server.bodies[0]["model"]) == ("what is it?", "vlm-0")


@pytest.mark.parametrize(("status", "tokens"), [(500, 3), (200, 4)])
def test_other_statuses_and_other_numbers_of_tokens_are_wrong(status: int, tokens: int, pictures: Pictures) -> None:
    with pytest.raises(WrongAnswer):
        ask_all(Trivial(status), "captions", pictures, tokens)


def test_a_connection_opens_again_after_a_broken_answer() -> None:
    async def run() -> tuple[int, bytes]:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            cut = next(numbers) == 0
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n" + (b"ab" if cut else b"abcd"))
            writer.close()

        numbers = itertools.count()
        listening = await asyncio.start_server(answer, "127.0.0.1", 0)
        connection = Connection(listening.sockets[0].getsockname()[1])
        with pytest.raises(asyncio.IncompleteReadError):
            await connection.post("/", b"")
        answered = await connection.post("/", b"")
        connection.close()
        listening.close()
        return answered

    assert asyncio.run(run()) == (200, b"abcd")
