"""What Ray Train is told of the gang beside its size, and what it cannot be told: to look before it chooses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

from vila2_ray.train.parallelize import best_backend


class _CapableBackend(_TorchBackend):
    """Sets up torch.distributed after asking each worker what it can talk by."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        common = set(worker_group.execute(best_backend))
        chosen = "nccl" if common == {"nccl"} else "gloo"
        super().on_start(worker_group, replace(backend_config, backend=chosen))


@dataclass
class CapableTorchConfig(TorchConfig):
    """NCCL where all workers have a GPU that torch sees, else gloo. Ray alone would go by the GPUs that were asked for,
    and a node may be said to have some that it has not.
    """

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _CapableBackend
