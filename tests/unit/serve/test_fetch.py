from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from vila2_ray.config.serving import ServeConfig
from vila2_ray.errors import Overloaded
from vila2_ray.serve.brought import BY_THIS_REQUEST, Brought, Hold
from vila2_ray.serve.fetch import Internet, fetch
from vila2_ray.serve.problems import Problem

SETTINGS = ServeConfig(fetch_urls=True, fetch_timeout_seconds=30.0, max_body_mb=0.1)
PUBLIC = "93.184.216.34"
Handler = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


class Loopback:
    """Names lead where the test says; every connection ends at one server on loopback."""

    def __init__(self, leads: dict[str, list[str]], port: int) -> None:
        self.leads, self.port = leads, port
        self.connected: list[tuple[str, int, str | None]] = []
        self.num_resolved = 0

    async def resolve(self, host: str, port: int) -> list[str]:
        self.num_resolved += 1
        if host not in self.leads:
            raise OSError("no such name")
        return self.leads[host]

    async def connect(
        self, address: str, port: int, tls_name: str | None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self.connected.append((address, port, tls_name))
        return await asyncio.open_connection("127.0.0.1", self.port)


def fetched(
    url: str, handler: Handler, leads: dict[str, list[str]] | None = None, settings: ServeConfig = SETTINGS
) -> tuple[bytes, Loopback]:
    async def run() -> tuple[bytes, Loopback]:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await handler(await reader.readuntil(b"\r\n\r\n"), writer)
                await writer.drain()
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        network = Loopback(leads or {"example.org": [PUBLIC]}, server.sockets[0].getsockname()[1])
        try:
            return await fetch(url, settings, network), network
        finally:
            server.close()

    return asyncio.run(run())


def says(*raw: bytes) -> Handler:
    async def handler(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"".join(raw))

    return handler


def problem(url: str, handler: Handler, leads: dict[str, list[str]] | None = None, **more: ServeConfig) -> Problem:
    with pytest.raises(Problem) as caught:
        fetched(url, handler, leads, **more)
    assert str(caught.value.status)[0] == "4"
    return caught.value


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def test_what_stands_there_comes_from_the_address_that_was_checked() -> None:
    heads: list[bytes] = []

    async def handler(head: bytes, writer: asyncio.StreamWriter) -> None:
        heads.append(head)
        writer.write(OK)

    data, network = fetched("https://example.org/cat.jpg?x=1", handler, {"example.org": ["10.0.0.1", PUBLIC]})
    assert data == b"hello"
    assert network.connected == [(PUBLIC, 443, "example.org")]
    assert network.num_resolved == 1
    assert heads[0].startswith(b"GET /cat.jpg?x=1 HTTP/1.1\r\n")
    assert b"host: example.org\r\n" in heads[0].lower()
    assert b"cookie" not in heads[0].lower()
    assert b"authorization" not in heads[0].lower()


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nhello",
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK,
    ],
)
def test_servers_may_answer_in_any_way(raw: bytes) -> None:
    assert fetched("http://example.org/", says(raw))[0] == b"hello"


def test_nothing_is_fetched_unless_allowed() -> None:
    found = problem("https://example.org/", says(OK), settings=ServeConfig())
    assert "serve.fetch_urls" in found.detail


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1", "fd00::1"])
def test_names_that_lead_inside_are_told_like_names_that_lead_nowhere(address: str) -> None:
    inside = problem("http://inside.example/", says(OK), {"inside.example": [address]})
    nowhere = problem("http://nowhere.example/", says(OK))
    assert (inside.status, inside.detail) == (nowhere.status, nowhere.detail)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1/", "http://127.1/", "http://2130706433/", "http://0x7f000001/", "http://[::1]/", "http://0/"],
)
def test_addresses_of_the_inside_in_any_spelling_are_refused(url: str) -> None:
    with pytest.raises(Problem, match="no public address"):
        asyncio.run(fetch(url, SETTINGS))  # by the system's own resolver, which knows these spellings


def test_each_redirect_is_checked_anew() -> None:
    leads = {"example.org": [PUBLIC], "inside.example": ["10.0.0.1"]}
    there = says(b"HTTP/1.1 302 Found\r\nLocation: http://inside.example/\r\nContent-Length: 0\r\n\r\n")
    assert "no public address" in problem("https://example.org/", there, leads).detail
    file = says(b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n")
    assert "neither http nor https" in problem("https://example.org/", file).detail


def test_few_redirects_are_followed() -> None:
    async def handler(head: bytes, writer: asyncio.StreamWriter) -> None:
        number = int(head.split()[1].rpartition(b"/")[2])
        moved = b"HTTP/1.1 301 Moved\r\nContent-Length: 0\r\nLocation: %d\r\n\r\n" % (number - 1)
        writer.write(moved if number else OK)

    data, network = fetched("http://example.org/3", handler)
    assert (data, network.num_resolved) == (b"hello", 4)
    assert "redirects" in problem("http://example.org/4", handler).detail


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 200_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"ffff\r\n"
        + b"x" * 0xFFFF
        + b"\r\n"
        + b"ffff\r\n"
        + b"x" * 0xFFFF,
    ],
)
def test_large_answers_are_left(raw: bytes) -> None:
    assert problem("http://example.org/", says(raw)).status == 413


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000,
    ],
)
def test_servers_that_do_not_answer_well(raw: bytes) -> None:
    assert problem("http://example.org/", says(raw)).slug == "address-unreachable"


def test_a_server_that_drips_is_left_in_time() -> None:
    async def handler(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(10_000):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    settings = ServeConfig(fetch_urls=True, fetch_timeout_seconds=0.2)
    assert "within 0.2 s" in problem("http://example.org/", handler, settings=settings).detail


def test_a_host_that_refuses_is_unreachable() -> None:
    class Refusing(Loopback):
        async def connect(
            self, address: str, port: int, tls_name: str | None
        ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            raise ConnectionRefusedError

    with pytest.raises(Problem, match="refuses the connection"):
        asyncio.run(fetch("http://example.org/", SETTINGS, Refusing({"example.org": [PUBLIC]}, 0)))


def test_the_systems_resolver_tells_each_address_once() -> None:
    found = asyncio.run(Internet().resolve("127.0.0.1", 80))
    assert found == ["127.0.0.1"]


def test_what_is_fetched_counts_as_brought_by_the_request() -> None:
    hold = Hold(8, 12)
    brought = Brought(hold)
    brought.add(2)
    token = BY_THIS_REQUEST.set(brought)
    try:
        assert fetched("http://example.org/a", says(OK))[0] == b"hello"
        assert (brought.num_bytes, hold.num_bytes) == (7, 7)
        refused = problem("http://example.org/a", says(OK))
        assert (refused.status, refused.slug) == (413, "body-too-large")
        brought.release()
        with pytest.raises(Overloaded, match="has ended"):
            fetched("http://example.org/a", says(OK))
        assert hold.num_bytes == 0
        Brought(hold).add(8)
        with pytest.raises(Overloaded):
            fetched("http://example.org/a", says(OK))
    finally:
        BY_THIS_REQUEST.reset(token)
