"""A Ray head on this machine whose autoscaler brings up nodes with pretended GPUs, by Ray's own fake node provider.

Ray's `AutoscalingCluster` needs a file that its wheel lacks, and ends every Ray of the machine with `ray stop --force`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import ray

HEAD = "ray.head.default"
LABEL = "ray-subcluster"
"""What pools are told apart by, in `cluster/` as well."""
HEAD_ID = "f" * 51 + "00000"
"""As Ray's fake provider has it."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Pool:
    """A kind of nodes that come with the work: what each is said to have, and how many there may be."""

    resources: dict[str, float]
    max_nodes: int
    labels: dict[str, str] = field(default_factory=dict)


GPU = {"gpu": Pool({"CPU": 1, "GPU": 1}, 2)}
"""One pool of two nodes."""


def configuration(pools: dict[str, Pool], idle_seconds: float, address: str) -> dict[str, Any]:
    """What a cluster launcher's file would say, for nodes that are processes of this machine."""
    return {
        "cluster_name": "pretended",
        "max_workers": sum(pool.max_nodes for pool in pools.values()),
        "upscaling_speed": 10.0,
        "idle_timeout_minutes": idle_seconds / 60,
        "provider": {
            # Ray's fake provider, by its class: by its own name, Ray looks for a file that its wheel lacks
            "type": "external",
            "module": "tests.ray.lean_nodes.LeanProvider",
            "gcs_address": address,
            "head_node_id": HEAD_ID,
            "launch_multiple": True,
            # all nodes have this machine's address: told apart by it, none is seen to be idle and none to be dead
            "use_node_id_as_ip": True,
            # a node that was killed is given up, not mended over SSH
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "auth": {},
        "docker": {},
        "head_node_type": HEAD,
        "available_node_types": {
            HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            **{
                name: {
                    "resources": {**pool.resources, "object_store_memory": 80_000_000},
                    "labels": pool.labels,
                    "node_config": {},
                    "min_workers": 0,
                    "max_workers": pool.max_nodes,
                }
                for name, pool in pools.items()
            },
        },
        **{name: [] for name in ("initialization_commands", "setup_commands", "head_setup_commands")},
        **{name: [] for name in ("worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")},
        **{name: {} for name in ("file_mounts", "head_node", "worker_nodes")},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
    }


@contextlib.contextmanager
def autoscaling_cluster(
    folder: Path, pools: dict[str, Pool] | None = None, idle_seconds: float = 4.0
) -> Iterator[psutil.Process]:
    """Connected to by this process while the context lasts. `folder` must have a short path: sockets lie in it.

    The autoscaler is the one that `ray up` and KubeRay take, which knows labels; the head works on nothing.
    """
    address = f"127.0.0.1:{free_port()}"
    config = folder / "autoscaling.json"
    config.write_text(json.dumps(configuration(pools or GPU, idle_seconds, address)))
    command = [sys.executable, "-m", "tests.ray.lean_nodes", "start", "--head", f"--port={address.rpartition(':')[2]}"]
    command += ["--num-cpus=0", "--num-gpus=0", "--include-dashboard=false", f"--temp-dir={folder}", "--block"]
    command += [f"--autoscaling-config={config}", "--object-store-memory=100000000", "--node-ip-address=127.0.0.1"]
    environment = {**os.environ, "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
    environment.update(RAY_enable_autoscaler_v2="1", RAY_CLOUD_INSTANCE_ID=HEAD_ID, RAY_NODE_TYPE_NAME=HEAD)
    environment.update(RAY_OVERRIDE_NODE_ID_FOR_TESTING=HEAD_ID, RAY_health_check_failure_threshold="4")
    environment["RAY_prestart_worker_first_driver"] = "0"  # processes that nobody may need, on a machine that is full
    repository = str(Path(__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [repository, os.environ.get("PYTHONPATH")]))
    for attempt in range(_ATTEMPTS):
        with open(folder / "head.log", "wb") as log:
            started = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        head = psutil.Process(started.pid)
        try:
            if not _connect(address, folder, started, is_last=attempt + 1 == _ATTEMPTS):
                continue
            yield head
            return
        finally:
            ray.shutdown()
            _end(head)
            started.wait(20)


_ATTEMPTS = 5
"""To start a head, on a machine that is full."""


def _connect(address: str, folder: Path, started: subprocess.Popen[bytes], is_last: bool) -> bool:
    """Whether the head came up. Fails with its log where it is the last attempt."""
    until = time.monotonic() + 300
    while "Ray runtime started" not in (told := (folder / "head.log").read_text()):
        if started.poll() is not None or time.monotonic() > until:
            assert not is_last, told[-3000:]
            return False
        time.sleep(0.3)
    ray.init(address=address, log_to_driver=False, logging_level="error", _node_ip_address="127.0.0.1")
    return True


def _end(head: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):  # it has ended by itself, and what it started with it
        for process in [*head.children(recursive=True), head]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)


def worker_nodes() -> set[str]:
    """Ids of the nodes beside the head that are alive."""
    return {node["NodeID"] for node in _alive_workers()}


def pools_up() -> Counter[str]:
    """How many nodes of each pool are alive; a pool is known by its label, and that without one is `cpu`."""
    return Counter(node["Labels"].get(LABEL, "cpu") for node in _alive_workers())


def _alive_workers() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"] and "node:__internal_head__" not in node["Resources"]]


def caption_actors(head: psutil.Process) -> list[psutil.Process]:
    """Processes of the cluster in which a caption actor is."""
    return [process for _, process in _at_work(head, "MapBatches(CaptionActor)")]


def nodes_at(head: psutil.Process, work: str) -> list[str]:
    """Ids of the worker nodes on which a process of Ray's is whose title has `work` in it."""
    return sorted({node for node, _ in _at_work(head, work)} & worker_nodes())


def _at_work(head: psutil.Process, work: str) -> list[tuple[str, psutil.Process]]:
    found = []
    for process in head.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):  # a zombie is one, too
            if work in " ".join(process.cmdline()):
                found.append((process.environ().get("RAY_OVERRIDE_NODE_ID_FOR_TESTING", ""), process))
    return found


def kill_node(head: psutil.Process, node: str) -> None:
    """End the raylet of a worker node and all that it started, by their ids, as a machine that goes dark would."""
    for process in head.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.name() == "raylet" and process.environ().get("RAY_OVERRIDE_NODE_ID_FOR_TESTING") == node:
                for of_node in [process, *process.children(recursive=True)]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        of_node.kill()
                return
    raise ProcessLookupError(f"no raylet of node {node}")
