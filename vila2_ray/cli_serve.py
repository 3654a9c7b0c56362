"""`vila2 serve`, `serve-pin`, `serve-key`: an endpoint here or on a cluster, and what operators say to it."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from vila2_ray.campaign.serving import (
    PROMOTED,
    Target,
    Word,
    entry_before,
    entry_target,
    find_target,
    read_serving,
    say,
)
from vila2_ray.errors import ConfigError, StageFailed
from vila2_ray.serve.captioner import Captioner, Standing
from vila2_ray.serve.configuring import Setup, setup
from vila2_ray.serve.keys import Keys, add_key, remove_key
from vila2_ray.serve.safety import check_exposure

if TYPE_CHECKING:
    import uvicorn

    from vila2_ray.serve.follower import Fleet
    from vila2_ray.serve.routing import Line

APPLICATION = "vila2"
KEEP_ALIVE_SECONDS = 75
"""Of an idle connection: longer than load balancers keep theirs, or they would send into one that closes."""
SHOWN_SECONDS = 0.2
"""Between two looks at what has changed."""


def serve_here(campaign: str, overrides: Sequence[str], address: str | None) -> None:
    """Serve until Ctrl-C. Raises ConfigError before anything starts where something does not fit."""
    made = setup(campaign, overrides)
    address = address or os.environ.get("RAY_ADDRESS")
    check_exposure(made.settings)
    keys = Keys.read(made.settings.keys) if made.settings.keys else None
    if address:
        _serve_on_cluster(made, address)
        return
    listening = _listen(made.settings.host, made.settings.port)  # told before a cluster starts
    with listening:
        if made.shares_process:
            _run(_serve_alone(made, keys, listening))
            return
        from vila2_ray.serve.cluster import leave, start_here

        try:
            start_here()
            _run(_serve_with_ray(made, keys, listening))
        finally:
            with _not_interrupted():
                leave()


def pin_here(campaign: str, name: str, model: str | None, rollback: bool, unpin: bool, why: str) -> None:
    """Put an operator's word down, and say what it means."""
    from vila2_ray.campaign.api import Campaign

    found = Campaign(campaign)
    if sum((bool(model), rollback, unpin)) > 1:
        raise ConfigError("serve-pin", name, "a model, --rollback or --unpin: one of them")
    promoted, markers, pin = found.promoted(), found.markers(), read_serving(found.store).pin_of(name)
    by = f"{getpass.getuser()}@{socket.gethostname()}"
    if unpin:
        say(found.store, Word(name, "unpin", None, by, why))
        print(f"{name} follows the campaign again")
        return
    current = pin.target if pin else entry_target(promoted["current"]) if promoted["current"] else None
    target: Target
    if rollback:
        if name != PROMOTED:
            raise ConfigError("--rollback", name, f"only {PROMOTED} has a history; pin a model and digest instead")
        target = entry_before(current, promoted)
    elif model:
        target = find_target(model, promoted, markers)
    elif name != PROMOTED:
        target = find_target(name, promoted, markers)
    elif current is not None:
        target = current
    else:
        raise ConfigError("serve-pin", name, "nothing is promoted yet; name a model")
    say(found.store, Word(name, "rollback" if rollback else "pin", target, by, why))
    print(f"{name} is pinned to {target.label}; vila2 serve-pin {campaign} {name} --unpin takes it back")


def key_here(file: str, name: str, revoke: bool) -> None:
    """Make a key, or take one back."""
    if revoke:
        remove_key(file, name)
        print(f"the key of {name} is no longer valid")
        return
    print(add_key(file, name))
    print(f"This is shown once; {file} holds only its hash. Send it as: Authorization: Bearer KEY", file=sys.stderr)


# --- in this process -------------------------------------------------------------------------------------------------


def _run(work: Coroutine[Any, Any, None]) -> None:
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


async def _serve_alone(made: Setup, keys: Keys | None, listening: socket.socket) -> None:
    """Engine, app and follower in this one process."""
    from vila2_ray.serve.local_fleet import LocalFleet

    fleet = LocalFleet(made)
    await _serve(made, keys, listening, fleet, fleet.line)


async def _serve_with_ray(made: Setup, keys: Keys | None, listening: socket.socket) -> None:
    """App and follower in this process, engines in replicas on a Ray of its own."""
    from vila2_ray.serve.deployment import prefix_of
    from vila2_ray.serve.fleet import ServeFleet
    from vila2_ray.serve.line import ServeLine

    prefix = prefix_of(APPLICATION)
    await _serve(made, keys, listening, ServeFleet(made, prefix), lambda key: ServeLine(prefix + key))


async def _serve(
    made: Setup, keys: Keys | None, listening: socket.socket, fleet: Fleet, open_line: Callable[[str], Line]
) -> None:
    import uvicorn

    from vila2_ray.serve.app import create_app
    from vila2_ray.serve.follower import Follower
    from vila2_ray.serve.logs import show_logs
    from vila2_ray.serve.routing import RoutingCaptioner

    settings = made.settings
    show_logs(settings.access_log)
    follower = Follower(settings.models, made.look, fleet, made.bounds, settings.poll_seconds)
    captioner = RoutingCaptioner(follower, open_line, settings.models)
    app = create_app(captioner, settings, made.prompts(), keys)
    drain = max(1, int(settings.drain_seconds))
    options = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=drain,
    )
    server = _server(options)
    try:
        async with _running(follower.run()), _running(_tell(captioner)):
            host, port = listening.getsockname()[:2]
            print(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
            await server.serve(sockets=[listening])
    finally:
        await follower.close()


def _server(options: uvicorn.Config) -> uvicorn.Server:
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

    return Server(options)


@contextlib.asynccontextmanager
async def _running(work: object) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)  # type: ignore[call-overload]
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _tell(captioner: Captioner) -> None:
    """A line for every change of what is served."""
    told: dict[str, str] = {}
    while True:
        for each in captioner.standing():
            line = _line(each)
            if told.get(each.name) != line:
                told[each.name] = line
                print(line, flush=True)
        await asyncio.sleep(SHOWN_SECONDS)


def _line(standing: Standing) -> str:
    served = standing.served
    what = f"{served.label} ({served.engine})" if served else ""
    return "  ".join(part for part in (standing.name, standing.state, what, standing.detail) if part)


def _listen(host: str, port: int) -> socket.socket:
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
        raise ConfigError("serve.port", port, f"{host}:{port} cannot be listened on: {error.strerror}") from error
    return made


def _wait_for_signal() -> None:
    came = threading.Event()
    before = {number: signal.signal(number, lambda *_: came.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not came.wait(1.0):
            pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _not_interrupted():  # type: ignore[no-untyped-def]
    """Let the cluster end, whatever is pressed."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- on a cluster ----------------------------------------------------------------------------------------------------


def _serve_on_cluster(made: Setup, address: str) -> None:
    """What `serve deploy` does, and taken back at Ctrl-C."""
    from vila2_ray.serve.cluster import join

    join(address, made.settings.host, made.settings.port)
    import ray
    from ray import serve

    from vila2_ray.serve.deployment import application, prefix_of

    try:
        serve.run(application(made), name=APPLICATION, route_prefix="/")
        print(f"listening on http://{made.settings.host}:{made.settings.port}; Ctrl-C ends it", flush=True)
        _wait_for_signal()
    except RuntimeError as error:
        raise StageFailed(f"Serve did not start the endpoint: {error}") from error
    finally:
        with _not_interrupted():
            serve.delete(APPLICATION)  # its follower ends the versions
            for name in list(serve.status().applications):
                if name.startswith(prefix_of(APPLICATION)):
                    serve.delete(name)
            ray.shutdown()
