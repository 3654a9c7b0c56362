"""The files of `cluster/`, as an operator's envsubst would hand them on, and the pools of nodes that they offer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

CLUSTER = Path(__file__).resolve().parents[3] / "cluster"
LAUNCHERS = ("aws.yaml", "gcp.yaml")
MANIFESTS = ("raycluster.yaml", "rayjob.yaml", "rayservice.yaml")
FILLED_IN = {
    "${VILA2_REGISTRY}": "registry.example.com/us",
    "${VILA2_SECURITY_GROUP}": "sg-0123456789abcdef0",
    "${VILA2_PROJECT}": "a-project",
}
MACHINES = {  # name → vCPUs, GPUs, memory of a GPU in GB, as the clouds' own pages have them
    "m7i.2xlarge": (8, 0, 0),
    "m7i.4xlarge": (16, 0, 0),
    "g6e.2xlarge": (8, 1, 48),
    "p5.48xlarge": (192, 8, 80),
    "n2-standard-8": (8, 0, 0),
    "n2-standard-16": (16, 0, 0),
    "a2-highgpu-1g": (12, 1, 40),
    "a3-highgpu-8g": (208, 8, 80),
}


@dataclass(frozen=True)
class Pool:
    """Nodes of a kind: what one of them has, and how many there may be."""

    name: str
    cpus: float
    gpus: float
    gpu_memory_gb: float
    """0: unknown."""
    most: int
    labels: dict[str, str] = field(default_factory=dict)

    def holds(self, cpus: float, gpus: float) -> int:
        """How many processes that ask for so much fit on one node."""
        return int(min(have // ask for have, ask in ((self.cpus, cpus), (self.gpus, gpus)) if ask))


def text(name: str) -> str:
    found = (CLUSTER / name).read_text("utf-8")
    for variable, value in FILLED_IN.items():
        found = found.replace(variable, value)
    return found


def documents(name: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text(name)) if document]


def manifest(name: str) -> dict[str, Any]:
    [document] = documents(f"kuberay/{name}")
    return document


def ray_cluster(name: str) -> dict[str, Any]:
    """The RayClusterSpec within a manifest."""
    spec = manifest(name)["spec"]
    return spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec


def templates(name: str) -> dict[str, dict[str, Any]]:
    """Pod templates by what they are for."""
    cluster, spec = ray_cluster(name), manifest(name)["spec"]
    found = {"head": cluster["headGroupSpec"]["template"]}
    found |= {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    return found | ({"submitter": spec["submitterPodTemplate"]} if "submitterPodTemplate" in spec else {})


def pools(name: str) -> dict[str, Pool]:
    """The pools of a file, by name."""
    if name in LAUNCHERS:
        found = []
        for kind, settings in documents(name)[0]["available_node_types"].items():
            node = settings["node_config"]
            memory = MACHINES[node.get("InstanceType") or node["machineType"]][2]
            have = settings["resources"]
            most, labels = settings["max_workers"], settings.get("labels", {})
            found.append(Pool(kind, have["CPU"], have.get("GPU", 0), memory, most, labels))
    else:
        found = [
            Pool(
                group["groupName"],
                float(group["resources"]["CPU"]),
                float(group["resources"].get("GPU", 0)),
                0,
                group["maxReplicas"],
                group.get("labels", {}),
            )
            for group in ray_cluster(name)["workerGroupSpecs"]
        ]
    return {pool.name: pool for pool in found}
