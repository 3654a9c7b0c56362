"""Random valid, invalid and aborted requests: nothing breaks, nothing is left running, memory stays flat."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import vila2_ray
from tests.e2e.served import eventually
from tests.unit.serve.scripted import data_url, in_base64, png

TREE = Path(vila2_ray.__file__).parents[1]
PICTURES = [png(colour, (size, size)) for colour in ("red", "green", "blue") for size in (4, 64, 300)]
BROKEN = [b"", b"<html>", PICTURES[0][:20], b"GIF89a", b"\xff\xd8\xff\xe0" + bytes(200), png("red", (600, 600))]
EXPECTED = {200, 400, 404, 405, 413, 415, 422}
MAX_BODY_BYTES = 2**20
NUM_CLIENTS = 8
LEAST_REQUESTS = 300
MAX_GROWTH_MB = 24.0


@pytest.fixture
def server() -> Iterator[tuple[str, int]]:
    """Address and process id."""
    command = [sys.executable, "-m", "tests.e2e.soaked"]
    with subprocess.Popen(command, cwd=TREE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}", process.pid
        finally:
            process.kill()


def memory_mb(pid: int) -> float:
    """Resident, of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Soak:
    """Clients that do at random whatever clients do."""

    def __init__(self, url: str, seed: int) -> None:
        self.url, self.random = url, random.Random(seed)
        self.statuses: Counter[int] = Counter()
        self.num_aborted = 0
        self.is_to_leave = False
        """Whether the request that is being made up is to be aborted."""

    async def run(self, seconds: float) -> None:
        """For so long, and on a busy machine until there were `LEAST_REQUESTS`."""
        until = time.monotonic() + seconds
        async with httpx.AsyncClient(base_url=self.url, timeout=60) as client:
            await asyncio.gather(*(self._client(client, until) for _ in range(NUM_CLIENTS)))

    async def _client(self, client: httpx.AsyncClient, until: float) -> None:
        while time.monotonic() < until or self.statuses.total() < LEAST_REQUESTS:
            self.is_to_leave = self.random.random() < 0.15
            request = self._request()
            if self.is_to_leave:
                await self._abort(request)
            else:
                try:
                    got = await client.request(**request)
                except httpx.TransportError as error:
                    # A server that is too busy to take in the rest of an oversized body resets the connection.
                    if len(request.get("content", b"")) <= MAX_BODY_BYTES:
                        raise AssertionError(f"no answer to {str(request)[:500]}") from error
                    continue
                self.statuses[got.status_code] += 1

    async def _abort(self, request: dict[str, Any]) -> None:
        """By a client of its own: a pool may keep the connection of a request that was cancelled, and run out."""
        async with httpx.AsyncClient(base_url=self.url, timeout=60) as client:
            task = asyncio.ensure_future(client.request(**request))
            await asyncio.wait({task}, timeout=self.random.random() * 0.02)
            self.num_aborted += task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _request(self) -> dict[str, Any]:
        kind = self.random.choice((self._captions, self._captions, self._form, self._chat, self._chat, self._odd))
        return kind()

    def _picture(self) -> bytes:
        return self.random.choice(BROKEN if self.random.random() < 0.2 else PICTURES)

    def _question(self) -> str:
        if self.is_to_leave and self.random.random() < 0.5:
            return "stall"
        return self.random.choice(("What?", "boxes", "refuse", "a b c d e f g h"))

    def _rarely(self) -> bool:
        return self.random.random() < 0.05

    def _fields(self) -> dict[str, Any]:
        some = {"stream": self.random.random() < 0.5, "max_tokens": self.random.choice((1, 5, 64, 65, 0))}
        some |= {"temperature": self.random.choice((0, 0.5, 0.7, 9)), "seed": 1}
        return {name: value for name, value in some.items() if self.random.random() < 0.4}

    def _captions(self) -> dict[str, Any]:
        images = [{"data": in_base64(self._picture())} for _ in range(self.random.randint(1, 3))]
        body = {"images": images, "question": self._question(), **self._fields()}
        return {"method": "POST", "url": "/v1/captions", "json": body}

    def _form(self) -> dict[str, Any]:
        files = [("image", ("a.png", self._picture())) for _ in range(self.random.randint(1, 3))]
        said = {name: str(value).lower() for name, value in self._fields().items()}
        data = {"question": self._question(), **said}
        return {"method": "POST", "url": "/v1/captions", "files": files, "data": data}

    def _chat(self) -> dict[str, Any]:
        picture = {"type": "image_url", "image_url": {"url": data_url(self._picture())}}
        messages = [{"role": "user", "content": [picture, {"type": "text", "text": self._question()}]}]
        model = "nobody" if self._rarely() else "promoted"
        return {
            "method": "POST",
            "url": "/v1/chat/completions",
            "json": {"model": model, "messages": messages, "stop": "d", **self._fields()},
        }

    def _odd(self) -> dict[str, Any]:
        return self.random.choice(
            (
                {"method": "GET", "url": "/v1/models"},
                {"method": "GET", "url": "/readyz"},
                {"method": "GET", "url": "/v1/captions"},
                {"method": "GET", "url": "/nowhere"},
                {"method": "POST", "url": "/v1/captions", "content": self.random.randbytes(300)},
                {"method": "POST", "url": "/v1/captions", "content": bytes(MAX_BODY_BYTES + 1)},
                {"method": "POST", "url": "/v1/chat/completions", "content": b"{" * self.random.randint(1, 2000)},
            )
        )


def soak(url: str, pid: int, warm_up_seconds: float, seconds: float, seed: int) -> None:
    asyncio.run(Soak(url, seed).run(warm_up_seconds))
    before, soaked = memory_mb(pid), Soak(url, seed + 1)
    asyncio.run(soaked.run(seconds))
    print(f"{soaked.statuses} aborted={soaked.num_aborted} {before:.0f} → {memory_mb(pid):.0f} MB")
    assert set(soaked.statuses) <= EXPECTED
    assert soaked.statuses[200] > 10
    assert soaked.num_aborted
    assert memory_mb(pid) - before < MAX_GROWTH_MB
    eventually(lambda: nothing_is_left(url))


def nothing_is_left(url: str) -> bool:
    """Whether no question is in work, even of those that were given up a moment ago."""
    told = httpx.get(f"{url}/metrics", timeout=60).text
    return all(f'vila2_questions_{gauge}{{model="promoted"}} 0.0' in told for gauge in ("running", "waiting"))


def test_a_short_soak(server: tuple[str, int]) -> None:
    soak(*server, warm_up_seconds=3, seconds=6, seed=1)


@pytest.mark.slow
def test_a_long_soak(server: tuple[str, int]) -> None:
    soak(*server, warm_up_seconds=30, seconds=240, seed=random.randrange(2**32))
