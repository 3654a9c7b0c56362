"""Ray for an endpoint: one started on this machine, or one that is there already; and Serve's settings on it."""

from __future__ import annotations

import logging
import os
from typing import Any

from vila2_ray.cli_head import use_token
from vila2_ray.errors import StageFailed, in_one_line

ENVIRONMENT = {
    "RAY_worker_niceness": "0",  # people wait for what the workers do
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",  # neither engine nor app block their loop
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",  # half of what a call costs by way of Ray's own actor calls
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "100",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""What Serve reads where its processes start; `serve/campaign.yaml` says the same for clusters that others start."""

LOOPBACK = "127.0.0.1"
STAY_ON_LOOPBACK = "VILA2_SERVE_LOOPBACK"
"""Set for the workers of a Ray of our own: `stay_on_loopback` then does something."""

QUIET: dict[str, Any] = {"enable_access_log": False, "log_level": "WARNING"}
"""Serve's own log of requests costs each of them time; the app keeps one."""


def start_here() -> None:
    """A Ray for this process, and Serve on it without proxies: this process listens itself."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)  # before Ray is imported: it reads them then
    os.environ[STAY_ON_LOOPBACK] = "1"
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # so they call it: all of Ray stays on 127.0.0.1
    use_token()
    import ray
    from ray import serve

    _quieten()
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=bool(os.environ.get("VILA2_DEBUG")),
        logging_level="warning",
        configure_logging=False,
    )
    serve.start(proxy_location="Disabled", logging_config=QUIET)


def join(address: str, host: str, port: int) -> None:
    """A cluster that others started, and Serve with proxies that listen there, unless it runs already."""
    import ray
    from ray import serve

    try:
        ray.init(address=address, log_to_driver=False, logging_level="warning")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise StageFailed(f"no Ray answers at {address} ({in_one_line(error)})") from error
    _quieten()
    serve.start(http_options={"host": host, "port": port}, logging_config=QUIET)


def stay_on_loopback() -> None:
    """Where this process belongs to a Ray of our own: let its replica's gRPC server listen to this machine alone.

    Serve has every replica listen on all addresses, without a key, for pickled calls: on a cluster a matter of its
    network, on one machine an open door. Called before the replica is ready, for its server starts then.
    """
    if not os.environ.get(STAY_ON_LOOPBACK):
        return
    from ray.serve._private import replica

    listen = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: listen(server, address.replace("[::]", LOOPBACK))


def _quieten() -> None:
    """What Serve tells of its own workings is for its own log."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)


def leave() -> None:
    """End the Ray that `start_here` started, with all that still runs on it."""
    import ray

    ray.shutdown()
