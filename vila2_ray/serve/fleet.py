"""Versions on Ray Serve: each is an application of its own, named after its key, with one deployment of replicas."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayTaskError
from ray.serve.schema import ApplicationStatus

from vila2_ray.serve.cluster import QUIET
from vila2_ray.serve.configuring import Setup
from vila2_ray.serve.line import DEPLOYMENT, ServeLine, in_our_words, result
from vila2_ray.serve.replica import Replica
from vila2_ray.serve.room import FreeNode, num_that_fit
from vila2_ray.serve.states import Phase, Run, Version

ASK_SECONDS = 10.0
END_POLL_SECONDS = 0.1
UPSCALE_SECONDS, DOWNSCALE_SECONDS = 5.0, 60.0
"""How long replicas are full, or idle, before there are more or fewer of them."""
_PHASES: dict[ApplicationStatus, Phase] = {
    ApplicationStatus.DEPLOY_FAILED: "failed",
    ApplicationStatus.DELETING: "stopping",
}
"""The others mean loading or running, as replicas answer or do not."""


class ServeFleet:
    """The versions of one endpoint. Belongs to an event loop; what blocks runs in threads."""

    def __init__(self, setup: Setup, prefix: str) -> None:
        """`prefix` begins the names of its applications: another for every endpoint on a cluster."""
        self._setup, self._prefix = setup, prefix
        self._stopping: set[str] = set()
        self._lines: dict[str, ServeLine] = {}

    def application(self, key: str) -> str:
        return self._prefix + key

    async def runs(self) -> list[Run]:
        status = await asyncio.to_thread(serve.status)
        found = []
        for name, told in status.applications.items():
            if not name.startswith(self._prefix) or told.status == ApplicationStatus.NOT_STARTED:
                continue
            key = name.removeprefix(self._prefix)
            states = [deployment.replica_states for deployment in told.deployments.values()]
            answers = any(count for each in states for state, count in each.items() if state == "RUNNING")
            phase = _PHASES.get(told.status, "running" if answers else "loading")
            phase = "stopping" if key in self._stopping else phase
            problem = _last_line(told.message) if phase == "failed" else ""
            found.append(Run(key, phase, told.last_deployed_time_s or time.time(), problem))
        self._stopping &= {run.key for run in found}
        return found

    async def version(self, key: str) -> Version | None:
        try:
            return await asyncio.wait_for(result(self._line(key).handle.version.remote()), ASK_SECONDS)
        except Exception:  # it is asked again at the next step
            return None

    async def start(self, version: Version) -> None:
        self._stopping.discard(version.key)
        application = _deployment(self._setup, version)
        await asyncio.to_thread(_deploy, application, self.application(version.key))

    async def smoke(self, key: str) -> str:
        try:
            with in_our_words():
                return await result(self._line(key).handle.smoke.remote())
        except RayTaskError as error:  # what the replica raised, without Ray's wrapping
            raise error.cause from error

    async def stop(self, key: str) -> None:
        self._stopping.add(key)
        line = self._lines.pop(key, None)
        if line is not None:
            line.close()
        await asyncio.to_thread(serve.delete, self.application(key), False)

    async def room(self) -> int:
        engine = self._setup.config.recaption.engine
        needs = {"CPU": engine.cpus_per_actor, "GPU": engine.gpus_per_actor}
        return num_that_fit(await asyncio.to_thread(_free_nodes), needs, engine.label_selector)

    async def close(self) -> None:
        """End all versions, and wait until they are gone, for as long as answers may take."""
        deadline = time.monotonic() + self._setup.settings.drain_seconds
        while runs := await self.runs():
            for run in runs:
                if run.phase != "stopping":
                    await self.stop(run.key)
            if time.monotonic() > deadline:
                return
            await asyncio.sleep(END_POLL_SECONDS)

    def _line(self, key: str) -> ServeLine:
        if key not in self._lines:
            self._lines[key] = ServeLine(self.application(key))
        return self._lines[key]


def _deployment(setup: Setup, version: Version) -> Any:
    engine, settings = setup.config.recaption.engine, setup.settings
    bound = engine.batch_size + settings.max_waiting
    deployment = serve.deployment(Replica).options(
        name=DEPLOYMENT,
        ray_actor_options={
            "num_cpus": engine.cpus_per_actor,
            "num_gpus": engine.gpus_per_actor,
            "label_selector": dict(engine.label_selector),
        },
        # The worker itself refuses what is too much, and says when to come back; Serve's bound only backs it up.
        max_ongoing_requests=bound + max(8, settings.max_waiting),
        max_queued_requests=settings.max_replicas * 2 * bound + 64,
        autoscaling_config={
            "min_replicas": settings.min_replicas,
            "max_replicas": settings.max_replicas,
            "target_ongoing_requests": float(engine.batch_size),
            "upscale_delay_s": UPSCALE_SECONDS,
            "downscale_delay_s": DOWNSCALE_SECONDS,
        },
        graceful_shutdown_timeout_s=settings.drain_seconds,
        graceful_shutdown_wait_loop_s=0.1,
        health_check_period_s=5.0,
        health_check_timeout_s=30.0,
        max_constructor_retry_count=2,
        logging_config=QUIET,
    )
    return deployment.bind(setup.worker(version))


def _free_nodes() -> list[FreeNode]:
    from ray._private.state import available_resources_per_node  # nothing public tells them apart

    free = available_resources_per_node()
    alive = [node for node in ray.nodes() if node["Alive"]]
    return [FreeNode(free.get(node["NodeID"], {}), node.get("Labels", {})) for node in alive]


def _deploy(application: Any, name: str) -> None:
    target = serve.RunTarget(application, name=name, route_prefix=None)
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def _last_line(message: str) -> str:
    """Serve's message ends with a traceback, whose last line says what went wrong."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it does not come up"
