"""An app behind uvicorn in this process: listens before anything starts, ends cleanly at Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from vila2_ray.errors import ConfigError

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

KEEP_ALIVE_SECONDS = 75
"""Of an idle connection: longer than load balancers keep theirs, or they would send into one that closes."""


def run_until_done(work: Coroutine[Any, Any, None]) -> None:
    """On uvloop where it is installed, as Ray's own processes do: it takes half of the time for a request."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(work)
        return
    if sys.version_info >= (3, 11):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work)
    else:
        uvloop.install()
        asyncio.run(work)


def make_server(app: ASGIApp, drain_seconds: int) -> uvicorn.Server:
    """One that ends at the first Ctrl-C when its answers are out, at the second at once, and raises nothing."""
    import uvicorn

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self):  # type: ignore[no-untyped-def]
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self.handle_exit, number, None)
            try:
                yield
            finally:
                for number in (signal.SIGINT, signal.SIGTERM):
                    loop.remove_signal_handler(number)

    return Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=drain_seconds,
        )
    )


def listen(host: str, port: int, field: str = "serve.port") -> socket.socket:
    """A socket that listens. Raises ConfigError where the address is taken or none of this machine's."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # With its protocol named, else connections wait for more to send (Nagle): 40 ms an answer.
        made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(2048)
        made.set_inheritable(False)
    except OSError as error:
        raise ConfigError(field, port, f"{host}:{port} cannot be listened on: {error.strerror}") from error
    return made


def address_of(listening: socket.socket) -> str:
    """The URL that a browser on this machine opens."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
