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
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING

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
from vila2_ray.serve.hosting import address_of, listen, make_server, run_until_done
from vila2_ray.serve.keys import Keys, add_key, remove_key
from vila2_ray.serve.safety import check_exposure

if TYPE_CHECKING:
    from vila2_ray.serve.follower import Fleet
    from vila2_ray.serve.routing import Line

APPLICATION = "vila2"
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
    listening = listen(made.settings.host, made.settings.port)  # told before a cluster starts
    with listening:
        if made.shares_process:
            run_until_done(_serve_alone(made, keys, listening))
            return
        from vila2_ray.serve.cluster import leave, start_here

        try:
            start_here()
            run_until_done(_serve_with_ray(made, keys, listening))
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
    server = make_server(app, drain)
    try:
        async with _running(follower.run()), _running(_tell(captioner)):
            print(f"listening on {address_of(listening)}", flush=True)
            await server.serve(sockets=[listening])
    finally:
        await follower.close()


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
