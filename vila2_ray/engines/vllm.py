"""The engine that drives vLLM step by step: `vila` and every other family that vLLM serves.

vLLM runs in this process, so that whoever kills the process has killed the engine: nothing stays behind with memory in
its hands. It batches continuously: requests join and leave the running batch at every step, and a batch has no tail.
Image work (`prepare`) may go on in another thread meanwhile. Token ids become text here, whole captions at a time, with
a tokenizer of our own: the one inside vLLM must not be used by two threads.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from vila2_ray.config import EngineConfig, SamplingConfig
from vila2_ray.engines.base import Generation, GenerationRequest, Key, generate_all
from vila2_ray.engines.turns import turn_token_ids
from vila2_ray.engines.vllm_arguments import all_arguments, blaming, sampling_params, vllm_version
from vila2_ray.errors import CheckpointError, EngineDied, Reason, SampleError, in_one_line
from vila2_ray.model.loading import check_checkpoint, load_processor


@dataclass
class VllmEngine:
    """Made by `VllmEngine.load`."""

    llm: Any
    processor: Any
    batch_size: int
    """Requests held at once: twice as many as run together, so that places that fall free are filled at once."""
    name: str = "vllm"
    version: str = field(default_factory=vllm_version)
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
        arguments = all_arguments(folder, config, quantization, processor, seed)
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        with blaming(folder):
            llm = LLMEngine.from_engine_args(EngineArgs(**arguments))
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
