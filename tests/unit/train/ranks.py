"""Worlds of a few processes on this machine, for tests of what ranks do together."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from vila2_ray.train.parallelize import Place, find_place


def run(
    world: int, folder: Path, work: Callable[[Place, Path], Any], shard_size: int = 0, backend: str = "gloo"
) -> list[Any]:
    """What `work(place, folder)` answers on each rank; both must be importable and picklable."""
    folder.mkdir(parents=True, exist_ok=True)
    mp.spawn(_rank, (world, str(folder), work, shard_size, backend), nprocs=world, join=True)
    return [torch.load(folder / f"answer-{rank}", weights_only=False) for rank in range(world)]


def _rank(
    rank: int, world: int, folder: str, work: Callable[[Place, Path], Any], shard_size: int, backend: str
) -> None:
    os.environ.update(LOCAL_WORLD_SIZE=str(world), LOCAL_RANK=str(rank))
    if backend == "nccl":
        torch.cuda.set_device(rank)
    dist.init_process_group(backend, init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    place = find_place("float32", 1, shard_size)
    torch.save(work(place, Path(folder)), Path(folder) / f"answer-{rank}")
    dist.barrier()
    dist.destroy_process_group()
