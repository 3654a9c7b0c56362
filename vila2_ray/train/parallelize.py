"""Where training runs and in which number format: the one place that looks at the machine."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Place:
    """One rank's place: its device, its number format and its part of the world."""

    device: torch.device
    compute_dtype: torch.dtype
    """bfloat16: matrix products run in it under autocast, weights stay float32."""
    rank: int = 0
    world: int = 1

    def autocast(self) -> AbstractContextManager[object]:
        if self.compute_dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.compute_dtype)

    @property
    def attention(self) -> str:
        """transformers' name of the attention to train with.

        torch's fused attention is the choice, except in bfloat16 on processors: there its backward pass took six times
        as long as plain matrix products (32 × 6 heads × 48 tokens, torch 2.13).
        """
        return "eager" if self.device.type == "cpu" and self.compute_dtype == torch.bfloat16 else "sdpa"

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

    def replicate(self, module: nn.Module) -> nn.Module:
        """The module itself alone, DistributedDataParallel among several ranks.

        Unused parameters are looked for: a batch of text alone never reaches the connector.
        """
        if self.world == 1 or not any(p.requires_grad for p in module.parameters()):
            return module
        devices = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices, find_unused_parameters=True)


def find_place(autocast: Literal["auto", "bfloat16", "float32"] = "auto", num_threads: int | None = None) -> Place:
    """This process's place: rank and world from torch.distributed when it is initialised.

    `num_threads` of torch are set when given: more threads than processors are several times slower.
    """
    if num_threads is not None:
        torch.set_num_threads(max(1, num_threads))
    device = _device()
    dtype = {"bfloat16": torch.bfloat16, "float32": torch.float32}.get(autocast) or fast_dtype(device)
    if not (dist.is_available() and dist.is_initialized()):
        return Place(device, dtype)
    return Place(device, dtype, dist.get_rank(), dist.get_world_size())


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where it is computed natively, else float32 (on other processors bfloat16 is emulated, and slower)."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if _cpu_computes_bfloat16() else torch.float32


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
