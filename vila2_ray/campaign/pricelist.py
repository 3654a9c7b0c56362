"""What an hour of a node costs: `prices.nodes`, else the list of machines, else one price for all. Pure.

a node as Ray shows it (labels, CPUs, GPUs) ─▶ its group in the cluster's file ─▶ machine and market ─▶ dollars
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from vila2_ray.campaign.clusterfile import Market, NodeGroup, read_cluster
from vila2_ray.config import Config, PricesConfig
from vila2_ray.errors import ConfigError

LIST = "prices.yaml"
"""Where `prices.file` names none, the list beside the cluster's file is taken, else the one of this checkout."""
GROUP_LABEL, MARKET_LABEL = "ray.io/node-group", "ray.io/market-type"
OTHER = "node"
"""Group of a node that neither a label nor the cluster's file tells of, and of a machine without Ray."""


@dataclass(frozen=True)
class Machine:
    """A line of the list. 0 and "": not said."""

    on_demand: float = 0.0
    """Dollars per hour."""
    spot: float = 0.0
    network: float = 0.0
    """Gigabits per second, lasting."""
    gpu: str = ""
    gpus: int = 0
    gpu_memory_gb: float = 0.0
    gpu_bandwidth: float = 0.0
    """GB per second between a GPU and its memory."""


@dataclass(frozen=True)
class Price:
    """Of one node."""

    dollars_per_hour: float
    basis: str
    """Where it comes from, for people."""
    is_listed: bool = True
    """Whether it is this kind of node's own."""


@dataclass(frozen=True)
class Node:
    """A node that is up, as Ray tells of it."""

    node_id: str
    cpus: float = 0.0
    gpus: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PriceBook:
    """All that is known of a campaign's nodes and what they cost."""

    prices: PricesConfig = field(default_factory=PricesConfig)
    groups: tuple[NodeGroup, ...] = ()
    machines: Mapping[str, Machine] = field(default_factory=dict)
    as_of: str = ""
    storage_dollars_per_gb_month: float = 0.0

    @classmethod
    def of(cls, config: Config) -> PriceBook:
        """Reads the cluster's file and the price list. Raises ConfigError."""
        if not config.cluster and not config.prices.file:
            return cls(config.prices)
        groups = read_cluster(config.cluster) if config.cluster else ()
        if not (name := config.prices.file or _nearest_list(config.cluster)):
            return cls(config.prices, groups)
        machines, told = read_prices(name)
        storage = float(told.get("storage_dollars_per_gb_month") or 0.0)
        return cls(config.prices, groups, machines, str(told.get("as_of", "")), storage)

    def group_of(self, node: Node) -> tuple[str, Market]:
        """A node's group and market: by its labels, else the one group of the cluster's file that it fits."""
        told = node.labels.get(GROUP_LABEL) or self._fitting(node)
        group = self.group(told)
        market = node.labels.get(MARKET_LABEL, "").replace("-", "_")
        if market in ("spot", "on_demand"):
            return told, "spot" if market == "spot" else "on_demand"
        return told, group.market if group else "on_demand"

    def group(self, name: str) -> NodeGroup | None:
        return next((group for group in self.groups if group.name == name), None)

    def machine_name(self, group: str) -> str:
        """The machine that a group's nodes are: as configured, else as the cluster's file says."""
        known = self.group(group)
        return self.prices.machines.get(group) or (known.machine if known else "")

    def machine(self, group: str) -> Machine | None:
        return self.machines.get(self.machine_name(group))

    def price(self, group: str, market: Market) -> Price:
        """Of a node of the group."""
        if group in self.prices.nodes:
            return Price(self.prices.nodes[group], f"prices.nodes.{group}")
        name, machine = self.machine_name(group), self.machine(group)
        amount = (machine.spot if market == "spot" else machine.on_demand) if machine else 0.0
        if amount:
            return Price(amount, f"{name}, {market.replace('_', ' ')}")
        missing = f"no {market.replace('_', ' ')} price of {name or group}: " if self.groups else ""
        return Price(self.prices.node_dollars_per_hour, f"{missing}prices.node_dollars_per_hour", False)

    def _fitting(self, node: Node) -> str:
        """Of the groups whose labels the node has, and whose CPUs and GPUs, the one with most labels."""
        fits = [
            group
            for group in self.groups
            if all(node.labels.get(key) == value for key, value in group.labels.items())
            and math.isclose(group.cpus, node.cpus)
            and math.isclose(group.gpus, node.gpus)
        ]
        return max(fits, key=lambda group: len(group.labels)).name if fits else OTHER


def _nearest_list(cluster: str) -> str:
    beside, ours = Path(cluster).expanduser().parent / LIST, Path(__file__).parents[2] / "cluster" / LIST
    return str(next((path for path in (beside, ours) if path.is_file()), ""))


def read_prices(path: str) -> tuple[dict[str, Machine], dict[str, Any]]:
    """Machine → its line, and the list's other words. Raises ConfigError naming what is wrong in it."""
    try:
        told = yaml.safe_load(Path(path).expanduser().read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError("prices.file", path, f"cannot be read ({type(error).__name__})") from error
    if not isinstance(told, dict) or not isinstance(told.get("machines"), dict):
        raise ConfigError("prices.file", path, "must be YAML with machines: {name: {on_demand: dollars per hour, …}}")
    known, machines = {spec.name: spec.type for spec in fields(Machine)}, {}
    for name, line in told["machines"].items():
        if not isinstance(line, dict) or (unknown := set(line) - set(known)):
            what = f"{sorted(unknown)} among" if isinstance(line, dict) else "no"
            raise ConfigError("prices.file", path, f"{name} has {what} {', '.join(known)}")
        bad = {key for key, value in line.items() if key != "gpu" and not _is_amount(value)}
        if bad:
            raise ConfigError("prices.file", path, f"{name}: {', '.join(sorted(bad))} must be a number from 0")
        machines[str(name)] = Machine(**line)
    return machines, told


def _is_amount(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf
