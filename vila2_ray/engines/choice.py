"""Which engine, device and number format: chosen here, by what the machine can do, and nowhere else.

torch is imported inside the functions, so that the fake engine can be had without it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vila2_ray.config import EngineConfig, EngineName
from vila2_ray.engines.base import Engine
from vila2_ray.engines.fake import FakeBehaviour, FakeEngine
from vila2_ray.engines.live import LiveEngine
from vila2_ray.engines.live_fake import LiveFake
from vila2_ray.engines.niceness import take_normal_niceness
from vila2_ray.errors import ConfigError, in_one_line

if TYPE_CHECKING:
    import torch


def choose_engine(name: EngineName) -> EngineName:
    """What `auto` means here: vLLM on GPUs; else transformers, which starts sooner and suits small models."""
    if name != "auto":
        return name
    return "vllm" if choose_device() == "cuda" and not vllm_problem() else "transformers"


@lru_cache(maxsize=1)
def vllm_problem() -> str:
    """Why vLLM cannot run here, in a few words; empty where it can."""
    if importlib.util.find_spec("vllm") is None:
        return "vLLM is not installed: pip install 'vila2-ray[gpu]' (or [cpu])"
    from vila2_ray.engines.vllm_arguments import set_environment

    set_environment()
    try:
        from vllm.platforms import current_platform

        current_platform.import_kernels()
    except Exception as error:  # whatever a build that does not fit this machine raises
        return f"vLLM does not run here: {in_one_line(error)}"
    return "" if current_platform.device_type in ("cuda", "cpu", "rocm", "xpu") else "vLLM knows no device here"


def choose_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def choose_dtype(device: str) -> torch.dtype:
    """bfloat16 where the device computes in it, else float32."""
    import torch

    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32


def open_engine(
    config: EngineConfig,
    checkpoint_folder: Path,
    *,
    quantization: str = "",
    processor: dict[str, Any] | None = None,
    seed: int = 0,
) -> Engine:
    """The engine that `config` names on `checkpoint_folder`; `processor` are settings of its image processor.

    Raises ConfigError for an engine that does not run here or cannot do what is asked, CheckpointError for a folder
    that cannot be used.
    """
    folder, chosen = Path(checkpoint_folder), choose_engine(config.name)
    if chosen == "fake":
        return FakeEngine(config.batch_size, FakeBehaviour.read(folder))
    _check_it_runs(config, chosen, quantization)
    if chosen == "vllm":
        from vila2_ray.engines.vllm import VllmEngine

        return VllmEngine.load(folder, config, quantization, processor, seed)
    from vila2_ray.engines.transformers import TransformersEngine

    device = choose_device()
    return TransformersEngine.load(folder, _dtype(config, device), device, config.batch_size, processor)


async def open_live_engine(
    config: EngineConfig,
    checkpoint_folder: Path,
    *,
    quantization: str = "",
    processor: dict[str, Any] | None = None,
    seed: int = 0,
    capacity: int = 0,
) -> LiveEngine:
    """The engine that serves `checkpoint_folder`, chosen as `open_engine` chooses; it has captioned a picture.

    `capacity`: requests that run together; 0: `config.batch_size`. Cancelling it frees what was loaded. Raises
    ConfigError for an engine that does not run here or cannot do what is asked, CheckpointError for a folder that
    cannot be used.
    """
    folder, config = Path(checkpoint_folder), dataclasses.replace(config, batch_size=capacity or config.batch_size)
    if config.name == "fake":
        return await LiveFake.open(folder, config.batch_size)
    take_normal_niceness()
    # imports take seconds, in which the loop would answer nobody
    chosen = await asyncio.to_thread(choose_engine, config.name)
    await asyncio.to_thread(_check_it_runs, config, chosen, quantization)
    await asyncio.to_thread(importlib.import_module, f"vila2_ray.engines.{_LIVE[chosen]}")
    if chosen == "vllm":
        from vila2_ray.engines.live_vllm import LiveVllm

        return await LiveVllm.open(folder, config, quantization, processor, seed)
    from vila2_ray.engines.live_batching import LiveBatching

    device = choose_device()
    return await LiveBatching.open(folder, _dtype(config, device), device, config.batch_size, processor)


_LIVE: dict[EngineName, str] = {"vllm": "live_vllm", "transformers": "live_batching"}
"""Modules of the engines that serve."""


def _check_it_runs(config: EngineConfig, chosen: EngineName, quantization: str) -> None:
    if chosen == "vllm" and (problem := vllm_problem()):
        raise ConfigError("recaption.engine.name", config.name, problem)
    if chosen != "vllm" and quantization:
        remedy = "only vLLM quantises; take recaption.engine.name=vllm"
        raise ConfigError("recaption.quantization", quantization, remedy)


def _dtype(config: EngineConfig, device: str) -> torch.dtype:
    import torch

    return choose_dtype(device) if config.dtype == "auto" else getattr(torch, config.dtype)
