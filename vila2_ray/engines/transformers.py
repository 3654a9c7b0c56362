"""The engine that runs a checkpoint folder with transformers: a `vila` model, or any `AutoModelForImageTextToText`.

Requests are answered a batch at a time. What a row is told does not depend on the batch: its random numbers are its
own, and padding is masked out. Floating-point sums do depend on a batch's shape in the last bits, so greedy answers are
equal between batch compositions in float32 (up to exact ties) and nearly always, not always, in bfloat16; with the same
batches they are equal in both. Recaptioning therefore never batches across row ranges.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from vila2_ray.engines.base import Generation, GenerationRequest, Key
from vila2_ray.engines.choosing import RowResult, TokenChooser
from vila2_ray.engines.decoding import LEAN_FAMILIES, decode_any, decode_lean, encode_images
from vila2_ray.engines.lean import pixel_values, written_ids
from vila2_ray.engines.turns import adds_special_tokens, user_turn
from vila2_ray.errors import EngineDied, Reason, SampleError, in_one_line
from vila2_ray.model.loading import load_model, load_processor

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h; 32 MiB is the most that it takes for the second."""

OUT_OF_MEMORY = (torch.OutOfMemoryError, MemoryError)


@dataclass
class TransformersEngine:
    """Made by `TransformersEngine.load`."""

    model: Any
    processor: Any
    batch_size: int = 128
    lean: bool = True
    """Use the short decoding loop where the family allows it; false: transformers' `generate` for all."""
    name: str = "transformers"
    version: str = transformers.__version__
    batches_continuously: bool = False
    _pending: dict[Key, GenerationRequest] = field(default_factory=dict, repr=False)

    @classmethod
    def load(
        cls,
        folder: Path,
        dtype: torch.dtype,
        device: str = "cpu",
        batch_size: int = 128,
        processor_settings: dict[str, Any] | None = None,
    ) -> TransformersEngine:
        """Raises CheckpointError for a folder that cannot be used."""
        processor = load_processor(folder, processor_settings)
        processor.tokenizer.padding_side = "left"
        model = load_model(folder, dtype).to(device)
        if device == "cpu":
            keep_freed_memory()
        engine = cls(model, processor, batch_size)
        if engine.is_lean:
            skip_unread_layers(model)
        return engine

    @property
    def num_pending(self) -> int:
        return len(self._pending)

    def prepare(self, request: GenerationRequest) -> GenerationRequest:
        """Images are prepared a batch at a time, in `step`."""
        return request

    def add(self, request: GenerationRequest) -> None:
        if request.key in self._pending:
            raise ValueError(f"a request with key {request.key} is already pending")
        self._pending[request.key] = request

    def step(self) -> list[Generation]:
        """Answer one batch: the oldest request and those behind it that are sampled alike."""
        if not self._pending:
            return []
        sampling = next(iter(self._pending.values())).sampling
        batch = [r for r in self._pending.values() if r.sampling == sampling][: self.batch_size]
        answers = self._answer(batch)
        for request in batch:
            del self._pending[request.key]
        return answers

    def close(self) -> None:
        self._pending.clear()
        self.model = self.processor = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _answer(self, batch: list[GenerationRequest]) -> list[Generation]:
        """Halve a batch that raises until the request is alone that cannot be answered."""
        try:
            return self._generate(batch)
        except torch.AcceleratorError as error:
            raise EngineDied(f"the accelerator reports {in_one_line(error)}") from error
        except Exception as error:  # whatever a family's processor or model raises, the other requests go on
            out_of_memory = isinstance(error, OUT_OF_MEMORY)
            if len(batch) == 1:
                problem = "does not fit into memory even alone" if out_of_memory else in_one_line(error)
                return [Generation.failed(batch[0].key, SampleError(Reason.ENGINE_ERROR, problem))]
        half = math.ceil(len(batch) / 2)
        if out_of_memory:
            self.batch_size = half  # what did not fit once will not fit the next time
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return self._answer(batch[:half]) + self._answer(batch[half:])

    def _generate(self, batch: list[GenerationRequest]) -> list[Generation]:
        batch = sorted(batch, key=lambda request: request.image_key)  # rows of an image lie together
        ends, device = self.end_ids(), self.model.device
        chooser = TokenChooser(batch[0].sampling, [request.seed for request in batch], ends, device)
        texts = [user_turn(self.processor, request.prompt) for request in batch]
        special = adds_special_tokens(self.processor, texts[0])
        if self.is_lean:
            self._decode_lean(batch, texts, special, chooser)
        else:
            inputs = self.processor(
                text=texts,
                images=[[request.image] for request in batch],
                padding=True,
                add_special_tokens=special,
                return_tensors="pt",
            ).to(device, self.model.dtype)
            decode_any(self.model, dict(inputs), ends, self.pad_id(), chooser)
        results = chooser.results()
        said = self.processor.tokenizer.batch_decode([r.token_ids for r in results], skip_special_tokens=True)
        return [_generation(request, result, text) for request, result, text in zip(batch, results, said, strict=True)]

    def _decode_lean(
        self, batch: list[GenerationRequest], texts: list[str], special: bool, chooser: TokenChooser
    ) -> None:
        device = self.model.device
        images = {request.image_key: request.image for request in batch}
        place = {key: number for number, key in enumerate(images)}
        tokens = self.encode(pixel_values(self.processor, list(images.values())))
        image_of_row = torch.tensor([place[request.image_key] for request in batch], device=device)
        ids, mask = written_ids(self.processor, texts, special, tokens.shape[1])
        decode_lean(self.model, ids.to(device), mask.to(device), tokens, image_of_row, chooser)

    @torch.inference_mode()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Image tokens [images, tokens, C] of what `lean.pixel_values` made."""
        device = self.model.device
        # a CPU's caches hold the activations of a few images, an accelerator wants many
        chunk = 32 if device.type == "cpu" else 128
        return encode_images(self.model, pixels.to(device, self.model.dtype), chunk)

    @property
    def is_lean(self) -> bool:
        """Whether the short decoding loop is used."""
        return self.lean and self.model.config.model_type in LEAN_FAMILIES

    def end_ids(self) -> list[int]:
        """Tokens that end a turn: the folder's generation settings name them, else its tokenizer does."""
        ends = self.model.generation_config.eos_token_id
        ends = self.processor.tokenizer.eos_token_id if ends is None else ends
        return list(ends) if isinstance(ends, (list, tuple)) else [] if ends is None else [int(ends)]

    def pad_id(self) -> int:
        return int(self.processor.tokenizer.pad_token_id or 0)


def keep_freed_memory() -> None:
    """Let glibc keep what is freed: activations are else mapped and zeroed anew each time, a tenth of it."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other C libraries decide for themselves
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)


def skip_unread_layers(model: Any) -> None:
    """Leave out what a tower computes behind the layer that the connector reads, which for VILA is the last but one."""
    tower, layer = model.model.vision_tower, model.config.vision_feature_layer
    encoder = getattr(tower, "encoder", None)
    if not isinstance(layer, int) or layer >= -1 or encoder is None:
        return
    for unread in encoder.layers[layer + 1 :]:
        unread.forward = _unchanged
    if hasattr(tower, "use_head"):
        tower.use_head = False


def _unchanged(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return hidden_states


def _generation(request: GenerationRequest, result: RowResult, text: str) -> Generation:
    if not math.isfinite(result.mean_logprob):
        return Generation.failed(request.key, SampleError(Reason.ENGINE_ERROR, "the model's output is not a number"))
    return Generation(
        key=request.key,
        text=text.strip(),
        finish_reason=result.finish_reason,
        num_output_tokens=len(result.token_ids),
        mean_logprob=result.mean_logprob,
        min_logprob=result.min_logprob,
    )
