"""The engine that serves with vLLM: requests join and leave the running batch at every step.

vLLM's scheduler and model run in a process of their own, so that neither HTTP nor JSON takes time from a step; it ends
with this process, however that ends. What is said is what `engines.vllm` says: same arguments, same prompts, same
decoding, and token ids become text here.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from vila2_ray.config import EngineConfig, SamplingConfig
from vila2_ray.engines.live import LiveRequest, Piece, Turn
from vila2_ray.engines.orphans import children_end_with_us
from vila2_ray.engines.spelling import Spelling, whole_text
from vila2_ray.engines.turns import Defusing, conversation, token_ids
from vila2_ray.engines.vllm_arguments import all_arguments, blaming, sampling_params, vllm_version
from vila2_ray.errors import CheckpointError, EngineDied, Reason, SampleError, in_one_line
from vila2_ray.model.loading import check_checkpoint, load_processor

_SOCKET_PATH_BYTES, _SOCKET_NAME_BYTES = 107, 1 + 36
"""What Linux takes; a slash and the uuid by which vLLM calls a socket."""
_TRIES = 3
"""Of a request whose image vLLM's two processes disagree about, because the one that sent it first went away."""

_SHUTDOWN_SECONDS = 0.1
"""Then vLLM's process is killed: left to itself it spends seconds of a processor on tidying a heap that goes away."""


class LiveVllm:
    """Made by `LiveVllm.open`."""

    name = "vllm"

    def __init__(self, loaded: _Loaded, capacity: int) -> None:
        self.version = vllm_version()
        self.capacity = capacity
        self._loaded, self._llm, processor = loaded, loaded.llm, loaded.processor
        self._tokenizer = processor.tokenizer
        self._defused = Defusing(processor)
        self._token_ids = lru_cache(maxsize=256)(lambda turns: token_ids(processor, conversation(processor, turns)))
        self._num_begun = 0
        self._is_closed = False

    @classmethod
    async def open(
        cls,
        folder: Path,
        config: EngineConfig,
        quantization: str = "",
        processor: dict[str, Any] | None = None,
        seed: int = 0,
    ) -> LiveVllm:
        """Loads and captions a few grey images. Cancelling it frees what has been loaded so far.

        Raises CheckpointError for a folder that vLLM cannot serve, ConfigError for arguments that it refuses.
        """
        check_checkpoint(folder)
        arguments = all_arguments(folder, config, quantization, processor, seed)
        loading = asyncio.wrap_future(_in_own_thread(_load, folder, arguments, processor))
        try:
            loaded = await asyncio.shield(loading)
        except asyncio.CancelledError:
            loading.add_done_callback(_shut_down)
            raise
        engine = cls(loaded, config.batch_size)
        try:
            await engine._warm_up(folder)
        except BaseException:
            await asyncio.shield(engine.close())
            raise
        return engine

    async def generate(self, request: LiveRequest) -> AsyncGenerator[Piece, None]:
        """The answer in pieces; a piece is what a step of the engine has added."""
        ids = self._token_ids(self._defused(request.turns))
        prompt = {
            "prompt_token_ids": list(ids),
            "multi_modal_data": {"image": request.image},
            "multi_modal_uuids": {"image": [request.image_key]},
        }
        for _ in range(_TRIES):
            async with contextlib.aclosing(self._outputs(request, prompt)) as outputs:
                account = _Account(self._tokenizer, request)
                async for output in outputs:
                    if output.outputs[0].finish_reason in ("error", "abort"):
                        break
                    if (piece := account.piece(output)) is not None:
                        yield piece
                else:
                    return
            await self.check()
            if account.num_output_tokens:
                break
        raise SampleError(Reason.ENGINE_ERROR, "vLLM gave the request up")

    async def check(self) -> None:
        if self._is_closed:
            raise EngineDied("the engine was closed")
        if self._llm.errored:
            raise EngineDied("vLLM's process has died")

    async def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        from vllm.v1.engine.exceptions import EngineDeadError

        self._llm.output_processor.propagate_error(EngineDeadError())  # who still waits would wait for ever
        await asyncio.shield(asyncio.wrap_future(_in_own_thread(self._loaded.shut_down)))

    async def _outputs(self, request: LiveRequest, prompt: dict[str, Any]) -> AsyncGenerator[Any, None]:
        """What vLLM says to the request, with its errors as ours."""
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        await self.check()
        self._num_begun += 1
        number = f"{self._num_begun}-{request.key}"
        params = sampling_params(request.sampling, request.seed, request.streamed, request.with_logprobs)
        try:
            (prepared,) = await self._llm.renderer.render_cmpl_async([prompt])
        except Exception as error:  # whatever a family's processor raises about this image
            await self.check()
            raise SampleError(Reason.ENGINE_ERROR, in_one_line(error)) from error
        try:
            async with contextlib.aclosing(self._llm.generate(prepared, params, number)) as outputs:
                async for output in outputs:
                    yield output
        except EngineDeadError as error:
            raise EngineDied("vLLM's process has died") from error
        except EngineGenerateError as error:
            await self.check()
            raise SampleError(Reason.ENGINE_ERROR, in_one_line(error.__cause__ or error)) from error
        except ValueError as error:  # of this request alone, such as more tokens than fit the context
            raise SampleError(Reason.ENGINE_ERROR, in_one_line(error)) from error

    async def _warm_up(self, folder: Path) -> None:
        """Caption a few grey images: the first steps of a process are several times slower than all others."""
        sampling, grey = SamplingConfig(max_tokens=4), Image.new("RGB", (64, 64), (127, 127, 127))
        turns = (Turn("user", "describe"),)
        requests = [LiveRequest(f"grey {n}", grey, f"grey {n}", turns, sampling, n) for n in range(4)]
        try:
            await asyncio.gather(*(self._answer(request) for request in requests))
        except (EngineDied, SampleError) as error:
            raise CheckpointError(str(folder), f"cannot be used to caption: {error}") from error

    async def _answer(self, request: LiveRequest) -> None:
        async for _ in self.generate(request):
            pass


class _Account:
    """What one answer has come to."""

    def __init__(self, tokenizer: Any, request: LiveRequest) -> None:
        self.num_output_tokens = 0
        self._tokenizer = tokenizer
        self._spelling = Spelling(tokenizer) if request.streamed else None
        self._with_logprobs = request.with_logprobs
        self._num_logprobs = 0
        self._sum = 0.0
        self._min = 0.0

    def piece(self, output: Any) -> Piece | None:
        """Of what a step has added; None where it is no whole character yet. Raises SampleError."""
        completion = output.outputs[0]
        ended = completion.finish_reason == "stop"
        ids = list(completion.token_ids)
        if self._with_logprobs:
            self._note(
                [float(value) for value in completion.logprobs.logprobs] if completion.logprobs else [], len(ids)
            )
        said = ids[:-1] if ended and ids else ids
        self.num_output_tokens += len(said)
        text = self._spelling.add(said) if self._spelling else ""
        num_prompt_tokens = len(output.prompt_token_ids or ())
        if not output.finished:
            return Piece(text, self.num_output_tokens, num_prompt_tokens=num_prompt_tokens) if text else None
        return Piece(
            text=text + self._spelling.finish() if self._spelling else whole_text(self._tokenizer, said),
            num_output_tokens=self.num_output_tokens,
            finish_reason="stop" if ended else "length",
            num_prompt_tokens=num_prompt_tokens,
            mean_logprob=self._sum / max(self._num_logprobs, 1) if self._with_logprobs else None,
            min_logprob=self._min if self._with_logprobs else None,
        )

    def _note(self, logprobs: list[float], num_tokens: int) -> None:
        if len(logprobs) < num_tokens or not all(map(math.isfinite, logprobs)):
            raise SampleError(Reason.ENGINE_ERROR, "the model's output is not a number")
        self._num_logprobs += len(logprobs)
        self._sum += sum(logprobs)
        self._min = min(self._min, *logprobs, 0.0)


@dataclass
class _Loaded:
    llm: Any
    processor: Any
    scratch: str
    """Folder of the sockets between vLLM's processes, which nobody else would remove."""

    def shut_down(self) -> None:
        """Takes a moment."""
        self.llm.shutdown(_SHUTDOWN_SECONDS)
        shutil.rmtree(self.scratch, ignore_errors=True)


def _socket_folder() -> str:
    """A new folder for vLLM's sockets; under /tmp where the usual one's name is too long for a socket's path."""
    made = tempfile.mkdtemp(prefix="vila2-")
    if len(os.fsencode(made)) + _SOCKET_NAME_BYTES <= _SOCKET_PATH_BYTES:
        return made
    os.rmdir(made)
    return tempfile.mkdtemp(prefix="vila2-", dir="/tmp")


def _load(folder: Path, arguments: dict[str, Any], processor: dict[str, Any] | None) -> _Loaded:
    """vLLM's engine and a processor of our own; takes as long as the checkpoint takes to load."""
    own_processor, scratch = load_processor(folder, processor), _socket_folder()
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"  # a fork of a process with threads may never wake up
    os.environ["VLLM_RPC_BASE_PATH"] = scratch
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    try:
        # what the engine's process could not do is said in its log; here it is a RuntimeError
        with blaming(folder, RuntimeError), children_end_with_us(scratch):
            return _Loaded(AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments)), own_processor, scratch)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _in_own_thread(function: Any, *args: Any) -> Any:
    """Not in the loop's pool, which others need meanwhile."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="load")
    future = pool.submit(function, *args)
    pool.shutdown(wait=False)
    return future


def _shut_down(loading: asyncio.Future[_Loaded]) -> None:
    """An engine that nobody waits for any more."""
    if not loading.cancelled() and loading.exception() is None:
        _in_own_thread(loading.result().shut_down)
