"""Which engine, device and number format: chosen here, by what the machine can do, and nowhere else.

torch is imported inside the functions, so that the fake engine can be had without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vila2_ray.config import EngineName
from vila2_ray.engines.base import Engine
from vila2_ray.engines.fake import FakeBehaviour, FakeEngine
from vila2_ray.errors import ConfigError

if TYPE_CHECKING:
    import torch


def choose_engine(name: EngineName) -> EngineName:
    """What `auto` means on this machine."""
    return "transformers" if name == "auto" else name


def choose_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def choose_dtype(device: str) -> torch.dtype:
    """bfloat16 where the device computes in it, else float32."""
    import torch

    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32


def open_engine(name: EngineName, checkpoint_folder: Path, batch_size: int, dtype: str = "auto") -> Engine:
    """The engine `name` on `checkpoint_folder`. `dtype` is `auto`, `float32` or `bfloat16`.

    Raises ConfigError for an unknown name, CheckpointError for a folder that cannot be used.
    """
    chosen = choose_engine(name)
    if chosen == "fake":
        return FakeEngine(batch_size, FakeBehaviour.read(Path(checkpoint_folder)))
    if chosen != "transformers":
        raise ConfigError("recaption.engine.name", name, "one of auto, transformers, fake")
    import torch

    from vila2_ray.engines.transformers import TransformersEngine

    device = choose_device()
    number = choose_dtype(device) if dtype == "auto" else getattr(torch, dtype)
    return TransformersEngine.load(Path(checkpoint_folder), number, device, batch_size)
