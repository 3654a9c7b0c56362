"""Pictures by address, where an operator allows it: from the open internet only, few hops, bounded in bytes and time.

A host's name is resolved here, and the connection goes to the very address that was checked: a name that leads
elsewhere a moment later changes nothing. Proxies of the environment are not used; no cookies, no credentials are sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
from typing import Protocol

import h11

from vila2_ray import __version__
from vila2_ray.config.serving import ServeConfig
from vila2_ray.serve.addresses import Target, is_public, refused, target
from vila2_ray.serve.brought import BY_THIS_REQUEST
from vila2_ray.serve.problems import Problem

_MAX_REDIRECTS = 3
_MAX_ADDRESSES = 3
"""Of one host, that are tried."""
_MOVED = frozenset({301, 302, 303, 307, 308})
_CHUNK_BYTES = 64 * 1024


class Network(Protocol):
    """How fetching reaches the world; tests give another."""

    async def resolve(self, host: str, port: int) -> list[str]:
        """Numeric addresses of a host. Raises OSError."""

    async def connect(
        self, address: str, port: int, tls_name: str | None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to a numeric address; with `tls_name`, by TLS to whom that name belongs. Raises OSError."""


class Internet:
    """The network that there is."""

    async def resolve(self, host: str, port: int) -> list[str]:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(where[0]) for *_, where in found))

    async def connect(
        self, address: str, port: int, tls_name: str | None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if tls_name is None:
            return await asyncio.open_connection(address, port)
        return await asyncio.open_connection(address, port, ssl=_tls(), server_hostname=tls_name)


async def fetch(url: str, settings: ServeConfig, network: Network | None = None) -> bytes:
    """What stands at an http(s) address, within `serve.max_body_mb` and `serve.fetch_timeout_seconds`.

    It counts as if the request had brought it. Raises Problem: 422 where fetching is off, the address is not of the
    open internet, or it does not answer with something; 413 where that is too large. Raises Overloaded.
    """
    if not settings.fetch_urls:
        detail = "this endpoint fetches none (serve.fetch_urls): send the picture itself, as base64 or a data: URL"
        raise Problem(422, "address-refused", "This address is not fetched", detail)
    work = _follow(target(url), int(settings.max_body_mb * 2**20), network or Internet())
    try:
        return await asyncio.wait_for(work, settings.fetch_timeout_seconds)
    except asyncio.TimeoutError as error:
        raise _unreachable(f"it did not answer within {settings.fetch_timeout_seconds:g} s") from error


async def _follow(where: Target, max_bytes: int, network: Network) -> bytes:
    for _ in range(_MAX_REDIRECTS + 1):
        found = await _ask(where, max_bytes, network)
        if isinstance(found, bytes):
            return found
        where = found
    raise _unreachable(f"it redirects more than {_MAX_REDIRECTS} times")


async def _ask(where: Target, max_bytes: int, network: Network) -> bytes | Target:
    """The bytes at an address, or where it sends on to."""
    reader, writer = await _connect(where, network)
    try:
        return await _Exchange(where, max_bytes, reader, writer).run()
    except (OSError, asyncio.IncompleteReadError, h11.ProtocolError) as error:
        raise _unreachable("its server does not speak HTTP well, or broke off") from error
    finally:
        writer.transport.abort()  # without TLS's farewell, for which a server may let us wait


async def _connect(where: Target, network: Network) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        found = await network.resolve(where.host, where.port)
    except (OSError, UnicodeError):
        found = []
    public = [address for address in found if is_public(address)]
    if not public:  # one answer for names that do not exist and names that lead inside: it tells nothing of either
        raise refused("its host has no public address")
    for address in public[:_MAX_ADDRESSES]:
        with contextlib.suppress(OSError):  # ssl's errors are some
            return await network.connect(address, where.port, where.host if where.is_secure else None)
    raise _unreachable("its server refuses the connection, or shows no valid certificate")


class _Exchange:
    """One request and its response."""

    def __init__(
        self, where: Target, max_bytes: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._where, self._max_bytes, self._reader, self._writer = where, max_bytes, reader, writer
        self._http = h11.Connection(our_role=h11.CLIENT)

    async def run(self) -> bytes | Target:
        """Asks, and reads as far as needed."""
        headers = [("Host", self._where.authority), ("User-Agent", f"vila2-ray/{__version__}"), ("Accept", "image/*")]
        headers += [("Accept-Encoding", "identity"), ("Connection", "close")]
        self._writer.write(self._http.send(h11.Request(method="GET", target=self._where.path, headers=headers)) or b"")
        self._writer.write(self._http.send(h11.EndOfMessage()) or b"")
        await self._writer.drain()
        response = await self._next()
        while isinstance(response, h11.InformationalResponse):
            response = await self._next()
        assert isinstance(response, h11.Response)
        told = {name.decode("latin-1"): value.decode("latin-1") for name, value in response.headers}
        if response.status_code in _MOVED and "location" in told:
            return target(told["location"], base=self._where)
        if response.status_code != 200:
            raise _unreachable(f"it answers with status {response.status_code}")
        if int(told.get("content-length", "0")) > self._max_bytes:  # h11 has read it as a number
            raise _too_large(self._max_bytes)
        return await self._body()

    async def _body(self) -> bytes:
        body, brought = bytearray(), BY_THIS_REQUEST.get()
        while isinstance(event := await self._next(), h11.Data):
            body += event.data
            if brought is not None:
                brought.add(len(event.data))
            if len(body) > self._max_bytes:
                raise _too_large(self._max_bytes)
        return bytes(body)

    async def _next(self) -> object:
        """The next whole event; h11 refuses heads that do not end."""
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._reader.read(_CHUNK_BYTES))
        return event


def _unreachable(why: str) -> Problem:
    return Problem(422, "address-unreachable", "Nothing fetched", f"{why}: send the picture itself instead")


def _too_large(max_bytes: int) -> Problem:
    detail = f"what it answers is larger than {max_bytes:,} bytes: send a smaller picture"
    return Problem(413, "image-too-large", "Too many bytes", detail)


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()
