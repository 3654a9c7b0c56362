"""The endpoint as a Ray Serve application: what listens, and what follows the campaign. Thin; `serve/campaign.yaml`.

door       the FastAPI app behind Serve's proxies; as many replicas as wanted
follower   one; starts and ends an application for each version, and tells the doors where questions go
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ApplicationStatus

from vila2_ray.engines.niceness import take_normal_niceness
from vila2_ray.errors import ConfigError
from vila2_ray.serve.app import create_app
from vila2_ray.serve.cluster import QUIET
from vila2_ray.serve.configuring import Setup, setup
from vila2_ray.serve.fleet import ServeFleet
from vila2_ray.serve.follower import Follower
from vila2_ray.serve.keys import Keys
from vila2_ray.serve.line import ServeLine
from vila2_ray.serve.logs import show_logs
from vila2_ray.serve.routing import RoutingCaptioner, Table
from vila2_ray.serve.safety import check_exposure

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve import Application

_ARGUMENTS = ("campaign", "overrides")


def prefix_of(application: str) -> str:
    """Names of the versions' applications begin with it."""
    return f"{application}."


class FollowerReplica:
    """A `Follower` that lives as long as the application; killed, it is started again and looks what is there."""

    async def __init__(self, setup: Setup) -> None:  # type: ignore[misc]  # Serve awaits it
        self._application = serve.get_replica_context().app_name
        fleet = ServeFleet(setup, prefix_of(self._application))
        settings = setup.settings
        self._follower = Follower(settings.models, setup.look, fleet, setup.bounds, settings.poll_seconds)
        self._task = asyncio.create_task(self._follower.run())

    async def table(self, mark: str) -> Table:
        return await self._follower.table(mark)

    async def check_health(self) -> None:
        if self._task.done():
            self._task.result()

    async def __del__(self) -> None:
        """The versions go with the application; not when only this replica is replaced."""
        if not hasattr(self, "_task"):
            return
        self._task.cancel()
        with contextlib.suppress(Exception):
            told = (await asyncio.to_thread(serve.status)).applications.get(self._application)
            if told is None or told.status == ApplicationStatus.DELETING:
                await self._follower.close()


class _FollowerHandle:
    """Tables from a follower that runs elsewhere on the cluster."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def table(self, mark: str) -> Table:
        response = self._handle.table.remote(mark)
        return await response


@serve.ingress()
class Door:
    """What listens: the app, and routes that the follower tells."""

    def __init__(self, setup: Setup, follower: Any) -> None:
        take_normal_niceness()
        self._setup, self._follower = setup, follower

    def __serve_build_asgi_app__(self) -> FastAPI:
        settings, prefix = self._setup.settings, prefix_of(serve.get_replica_context().app_name)
        # What counts is where Serve's proxies listen, whatever the settings say.
        client = _get_global_client()
        assert client is not None
        check_exposure(replace(settings, host=client.http_config.host or "127.0.0.1"))
        captioner = RoutingCaptioner(
            _FollowerHandle(self._follower), lambda key: ServeLine(prefix + key), settings.models
        )
        keys = Keys.read(settings.keys) if settings.keys else None
        show_logs(settings.access_log)
        return create_app(captioner, settings, self._setup.prompts(), keys, names_answers=False)


def application(setup: Setup) -> Application:
    """For `serve.run`."""
    follower = serve.deployment(FollowerReplica).options(
        name="follower",
        num_replicas=1,
        max_ongoing_requests=1000,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_wait_loop_s=0.1,
        logging_config=QUIET,
    )
    door = serve.deployment(Door).options(
        name="door",
        max_ongoing_requests=1000,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=setup.settings.drain_seconds,
        logging_config=QUIET,
    )
    return door.bind(setup, follower.bind(setup))


def build(args: Mapping[str, Any]) -> Application:
    """For `serve deploy`: `campaign`, its folder's URI; `overrides`, a list of key=value. Raises ConfigError."""
    unknown = sorted(set(args) - set(_ARGUMENTS))
    if unknown or not args.get("campaign"):
        raise ConfigError("args", dict(args), f"takes {' and '.join(_ARGUMENTS)}; campaign is the folder's URI")
    return application(setup(args["campaign"], tuple(args.get("overrides") or ())))
