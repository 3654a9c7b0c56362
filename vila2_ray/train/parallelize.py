"""Where training runs, in which number format and on how many ranks: the one place that looks at the machine."""

from __future__ import annotations

import importlib.util
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from vila2_ray.errors import ConfigError


@dataclass(frozen=True)
class Place:
    """One rank's place: its device, its number format and its part of the world."""

    device: torch.device
    compute_dtype: torch.dtype
    """bfloat16: matrix products run in it, gradients are reduced and weights kept in float32."""
    rank: int = 0
    world: int = 1
    shard_size: int = 1
    """Ranks that hold one copy of the model between them; `world` is a multiple of it."""

    def autocast(self) -> AbstractContextManager[object]:
        """For one rank alone. Several ranks share a sharded model, which gathers its weights in the compute dtype."""
        if self.compute_dtype == torch.float32 or self.world > 1:
            return nullcontext()
        return torch.autocast(self.device.type, self.compute_dtype)

    @property
    def attention(self) -> str:
        """transformers' name of the attention to train with.

        flash-attn where it can run: it keeps packed samples apart without a mask. Else torch's fused attention, except
        in bfloat16 on processors: there its backward pass took six times as long as plain matrix products
        (32 × 6 heads × 48 tokens, torch 2.13).
        """
        half = self.compute_dtype == torch.bfloat16
        if self.device.type == "cuda" and half and importlib.util.find_spec("flash_attn") is not None:
            return "flash_attention_2"
        return "eager" if self.device.type == "cpu" and half else "sdpa"

    def mesh(self) -> DeviceMesh:
        """Copies of the model × ranks that share one: FSDP shards over the second dimension, and the first is HSDP's.

        Ranks of a copy are neighbours, so that a node keeps a copy to itself.
        """
        shape = (self.world // self.shard_size, self.shard_size)
        return init_device_mesh(self.device.type, shape, mesh_dim_names=("replicate", "shard"))

    def sum(self, *values: float) -> list[float]:
        """Each value summed over all ranks."""
        if self.world == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier()


def find_place(
    autocast: Literal["auto", "bfloat16", "float32"] = "auto", num_threads: int | None = None, shard_size: int = 0
) -> Place:
    """This process's place: rank and world from torch.distributed when it is initialised.

    `num_threads` of torch are set when given: more threads than processors are several times slower. `shard_size` 0
    means the ranks of a node. Raises ConfigError for a shard size that does not divide the world.
    """
    if num_threads is not None:
        torch.set_num_threads(max(1, num_threads))
    device = _device()
    dtype = {"bfloat16": torch.bfloat16, "float32": torch.float32}.get(autocast) or fast_dtype(device)
    if not (dist.is_available() and dist.is_initialized()):
        return Place(device, dtype)
    world = dist.get_world_size()
    size = shard_size or _ranks_of_a_node(world)
    if world % size:
        raise ConfigError("train.shard_size", size, f"must divide the number of workers, {world}")
    return Place(device, dtype, dist.get_rank(), world, size)


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where it is computed natively, else float32 (on other processors bfloat16 is emulated, and slower)."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if _cpu_computes_bfloat16() else torch.float32


def best_backend() -> Literal["nccl", "gloo"]:
    """What ranks talk by: NCCL where torch sees a GPU, whatever Ray was told of this machine."""
    return "nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"


def _ranks_of_a_node(world: int) -> int:
    """From LOCAL_WORLD_SIZE, which Ray Train and torchrun set; all ranks where nodes hold different numbers of them."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    sizes = torch.tensor([local, -local], dtype=torch.int64, device=_device())
    dist.all_reduce(sizes, dist.ReduceOp.MAX)
    largest, smallest = int(sizes[0]), -int(sizes[1])
    return largest if largest == smallest and world % largest == 0 else world


def _cpu_computes_bfloat16() -> bool:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            flags = next((line for line in info if line.startswith(("flags", "Features"))), "")
    except OSError:
        return False
    return bool({"avx512_bf16", "amx_bf16"} & set(flags.split()))


def _device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    index = int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count()
    if dist.is_available() and dist.is_initialized():
        index = torch.cuda.current_device()
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
