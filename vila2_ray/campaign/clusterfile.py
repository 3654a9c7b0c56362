"""What nodes a cluster may have, read from its own file: a Ray cluster launcher's (AWS, Google) or a KubeRay manifest.

Placeholders such as ${VILA2_REGISTRY} may still stand in it: nothing is started from here. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from vila2_ray.errors import ConfigError

Market = Literal["on_demand", "spot"]
GPU_RESOURCE = "nvidia.com/gpu"
_MACHINE_LABELS = ("node.kubernetes.io/instance-type", "cloud.google.com/machine-family-type")


@dataclass(frozen=True)
class NodeGroup:
    """Nodes of a kind: what one of them has, and how many there may be."""

    name: str
    machine: str = ""
    """The cloud's name of the machine; empty where the file does not say (Kubernetes)."""
    market: Market = "on_demand"
    cpus: float = 0.0
    """As Ray counts them: those that work may ask for."""
    gpus: float = 0.0
    at_least: int = 0
    at_most: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    is_head: bool = False

    def holds(self, cpus: float, gpus: float) -> int:
        """How many processes that ask for so much fit on one node."""
        fits = [int(have / ask + 1e-9) for have, ask in ((self.cpus, cpus), (self.gpus, gpus)) if ask]
        return min(fits, default=0)


def read_cluster(path: str) -> tuple[NodeGroup, ...]:
    """The groups of a cluster's file, head first. Raises ConfigError for a file that is none of these."""
    try:
        text = Path(path).expanduser().read_text("utf-8")
        documents = [document for document in yaml.safe_load_all(text) if isinstance(document, dict)]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        remedy = f"cannot be read ({type(error).__name__}); name a cluster launcher's YAML or a KubeRay manifest"
        raise ConfigError("cluster", path, remedy) from error
    for document in documents:
        if "available_node_types" in document:
            return _head_first(_launcher(document))
        if (spec := _ray_cluster(document)) is not None:
            return _head_first(_kuberay(spec))
    raise ConfigError("cluster", path, "has neither available_node_types (ray up) nor a RayCluster (KubeRay)")


def _head_first(groups: list[NodeGroup]) -> tuple[NodeGroup, ...]:
    return tuple(sorted(groups, key=lambda group: not group.is_head))


def _launcher(document: dict[str, Any]) -> list[NodeGroup]:
    head, most = document.get("head_node_type"), int(document.get("max_workers") or 0)
    groups = []
    for name, settings in document["available_node_types"].items():
        machine, have = settings.get("node_config") or {}, settings.get("resources") or {}
        is_head = name == head
        groups.append(
            NodeGroup(
                name=name,
                machine=str(machine.get("InstanceType") or machine.get("machineType") or ""),
                market="spot" if _is_spot(machine) else "on_demand",
                cpus=float(have.get("CPU", 0)),
                gpus=float(have.get("GPU", 0)),
                at_least=1 if is_head else int(settings.get("min_workers") or 0),
                at_most=1 if is_head else int(settings.get("max_workers", most)),
                labels={key: str(value) for key, value in (settings.get("labels") or {}).items()},
                is_head=is_head,
            )
        )
    return groups


def _is_spot(machine: dict[str, Any]) -> bool:
    scheduling = machine.get("scheduling") or {}
    if isinstance(scheduling, list):  # Google's may be a list of one
        scheduling = {key: value for part in scheduling for key, value in part.items()}
    aws = (machine.get("InstanceMarketOptions") or {}).get("MarketType")
    return aws == "spot" or scheduling.get("provisioningModel") == "SPOT" or bool(scheduling.get("preemptible"))


def _ray_cluster(document: dict[str, Any]) -> dict[str, Any] | None:
    """The RayClusterSpec of a RayCluster, RayJob or RayService."""
    spec = document.get("spec") or {}
    found = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    return found if "headGroupSpec" in found else None


def _kuberay(spec: dict[str, Any]) -> list[NodeGroup]:
    groups = [_pods("headgroup", spec["headGroupSpec"], 1, 1, is_head=True)]
    for group in spec.get("workerGroupSpecs") or []:
        least = int(group.get("minReplicas") or 0)
        most = int(group.get("maxReplicas", group.get("replicas") or least))
        hosts = int(group.get("numOfHosts") or 1)
        groups.append(_pods(group["groupName"], group, least * hosts, most * hosts))
    return groups


def _pods(name: str, group: dict[str, Any], least: int, most: int, is_head: bool = False) -> NodeGroup:
    pod = group["template"].get("spec") or {}
    asked = ((pod.get("containers") or [{}])[0].get("resources") or {}).get("requests") or {}
    told, selector = group.get("resources") or {}, pod.get("nodeSelector") or {}
    spots = [value for key, value in selector.items() if key.endswith(("capacity-type", "capacityType", "gke-spot"))]
    return NodeGroup(
        name=name,
        machine=next((str(selector[label]) for label in _MACHINE_LABELS if label in selector), ""),
        market="spot" if any(str(value).lower() in ("spot", "true") for value in spots) else "on_demand",
        cpus=_quantity(told.get("CPU", asked.get("cpu", 0))),
        gpus=_quantity(told.get("GPU", asked.get(GPU_RESOURCE, 0))),
        at_least=least,
        at_most=most,
        labels={key: str(value) for key, value in (group.get("labels") or {}).items()},
        is_head=is_head,
    )


def _quantity(value: object) -> float:
    """Kubernetes' way to write CPUs: `14`, `"14"`, `500m`."""
    text = str(value)
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)
