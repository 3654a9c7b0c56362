"""What a training stage takes, by arithmetic: memory of a GPU, operations, time. Pure: nothing is built or loaded.

Memory, per GPU, as train/shard.py lays it out (mixed precision as in ZeRO, arXiv 1910.02054, table 1):

    weights       4 bytes a parameter (float32 masters), shared by the GPUs of a copy; a frozen tower is on every GPU
    gradients     4 bytes a trained parameter, shared
    optimizer     8 bytes a trained parameter (AdamW's two moments), shared
    gathered      bfloat16 copies: the root unit's (embeddings, head) and its gradients, two layers at a time and the
                  float32 gradients of one; on one GPU alone, autocast's copies of the trained weights
    activations   what the backward pass reads, counted tensor by tensor for a decoder layer with fused attention (the
                  way of Korthikanti et al., arXiv 2205.05198, for SwiGLU, RMSNorm and grouped queries):
                  16 h + 4 q + 4 k + 8 i bytes a token (h hidden, q and k widths of queries and keys, i intermediate);
                  selective recomputation keeps the matrix products' outputs, 6 h + 4 q + 4 k + 4 i; full keeps the
                  layer's input alone, 2 h; both compute one layer at a time again. A vision block: 16 h + 4 i a patch,
                  14 h + 2 i, 2 h. Logits: 12 bytes an entry (bfloat16, its gradient, the same in float32).

Operations are counted as train/throughput.py counts them while training runs (PaLM, arXiv 2204.02311, appendix B); full
recomputation adds the layers' forward pass. Time is operations by `utilization` of the peak.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from vila2_ray.config import PlanningConfig, StageConfig, TrainConfig
from vila2_ray.model.architecture import Architecture
from vila2_ray.train.throughput import ModelShape, PartShape, peak_flops

GB = 1e9
OUTSIDE_BYTES = 2_000_000_000
"""CUDA context and NCCL's buffers, about."""
USABLE_SHARE = 0.94
"""Of a GPU's memory; the rest is lost to fragmentation."""

Recomputation = Literal["none", "selective", "full"]


@dataclass(frozen=True)
class Load:
    """What a stage's samples look like on average."""

    samples: int
    """All that the stage sees, repetitions included."""
    tokens: int
    """Of a sample, its image's included."""
    images: float = 1.0
    """Of a sample."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU at the peak of a step."""

    weights: float
    gradients: float
    optimizer: float
    gathered: float
    activations: float

    @property
    def total(self) -> float:
        """All of it, and what lies outside of torch."""
        parts = self.weights + self.gradients + self.optimizer + self.gathered + self.activations
        return parts + OUTSIDE_BYTES


@dataclass(frozen=True)
class StageCost:
    """A stage's estimate. None: not known."""

    trained: int
    """Parameters."""
    memory: Memory
    gpu_memory_bytes: float | None
    num_gpus: int
    flops: float
    tokens_per_step: int
    num_steps: int
    seconds: float | None
    remedy: str
    """What makes it fit; empty where it fits, or the GPU's memory is not known."""

    @property
    def gpu_hours(self) -> float | None:
        return None if self.seconds is None else self.seconds * self.num_gpus / 3600

    @property
    def fits(self) -> bool | None:
        if self.gpu_memory_bytes is None:
            return None
        return self.memory.total <= USABLE_SHARE * self.gpu_memory_bytes


def stage_cost(
    architecture: Architecture, stage: StageConfig, train: TrainConfig, planning: PlanningConfig, load: Load
) -> StageCost:
    """What a stage takes on the workers and GPUs configured."""
    size = shard_size(train, planning)
    memory = stage_memory(architecture, stage, train.num_workers, size, train.activation_checkpointing, load)
    flops = stage_flops(architecture, stage, train.activation_checkpointing, load)
    speed = peak_tflops(planning) * 1e12 * planning.utilization * train.num_workers
    items = items_per_sequence(stage, load)
    cost = StageCost(
        trained=sum(count for part, count in architecture.parameters().items() if part in stage.trained),
        memory=memory,
        gpu_memory_bytes=planning.gpu_memory_gb * GB or None,
        num_gpus=train.num_workers,
        flops=flops,
        tokens_per_step=round(stage.batch_size * items * load.tokens),
        num_steps=stage.max_steps or math.floor(load.samples / items / stage.batch_size),
        seconds=flops / speed if speed else None,
        remedy="",
    )
    if cost.fits is not False:
        return cost
    return replace(cost, remedy=_remedy(architecture, stage, train, planning, load))


def shard_size(train: TrainConfig, planning: PlanningConfig) -> int:
    """Workers that share a copy of the model: as configured, by default those of a node."""
    return train.shard_size or min(train.num_workers, planning.gpus_per_node)


def items_per_sequence(stage: StageConfig, load: Load) -> int:
    """Samples that share a training sequence."""
    fitting = max(1, stage.max_length // max(1, load.tokens))
    return min(fitting, stage.max_samples_per_sequence or fitting)


def stage_memory(
    architecture: Architecture, stage: StageConfig, world: int, size: int, recomputation: Recomputation, load: Load
) -> Memory:
    """Memory of one of `world` GPUs, `size` of which share a copy of the model."""
    counts, decoder, tower = architecture.parameters(), architecture.decoder, architecture.tower
    trained = sum(count for part, count in counts.items() if part in stage.trained)
    apart = 0 if "vision" in stage.trained else counts["vision"]
    weights = 4 * ((sum(counts.values()) - apart) / size + apart)
    if world == 1:
        gathered = 2.0 * trained
    else:
        root, layer = decoder.embeddings + decoder.hidden, max(decoder.block, tower.block)
        gathered = 2.0 * root + 4.0 * layer
        gathered += (2.0 * root + 6.0 * layer) if "language" in stage.trained else 0.0
    return Memory(
        weights=weights,
        gradients=4 * trained / size,
        optimizer=8 * trained / size,
        gathered=gathered,
        activations=_activations(architecture, stage, recomputation, load),
    )


def _activations(architecture: Architecture, stage: StageConfig, recomputation: Recomputation, load: Load) -> float:
    decoder, tower = architecture.decoder, architecture.tower
    items = items_per_sequence(stage, load) * stage.micro_batch_size
    tokens, images = items * min(load.tokens, stage.max_length), items * load.images
    kept, again = layer_bytes(architecture, recomputation), layer_bytes(architecture, "none")
    language = tokens * (decoder.layers * kept + (0 if recomputation == "none" else again) + 2 * decoder.hidden)
    patches = images * tower.patches
    if "vision" in stage.trained:
        block, stays = vision_block_bytes(architecture, "none"), vision_block_bytes(architecture, recomputation)
        vision = patches * (tower.layers * stays + (0 if recomputation == "none" else block))
    else:  # all hidden states of the forward pass, one of which the connector takes
        vision = patches * (tower.layers + 1) * 2 * tower.hidden
    width = architecture.downsample_factor**2 * tower.hidden
    connector = images * architecture.image_tokens * (4 * width + 6 * decoder.hidden)
    predicted = tokens - images * architecture.image_tokens
    return language + vision + connector + max(0.0, predicted) * decoder.vocabulary * 12


def layer_bytes(architecture: Architecture, recomputation: Recomputation) -> int:
    """What the backward pass is left of a decoder layer, per token."""
    decoder = architecture.decoder
    h, q, k, i = decoder.hidden, decoder.query_width, decoder.kv_width, decoder.intermediate
    kept = {"none": 16 * h + 4 * q + 4 * k + 8 * i, "selective": 6 * h + 4 * q + 4 * k + 4 * i, "full": 2 * h}
    return kept[recomputation]


def vision_block_bytes(architecture: Architecture, recomputation: Recomputation) -> int:
    """What the backward pass is left of a vision block, per patch."""
    h, i = architecture.tower.hidden, architecture.tower.intermediate
    return {"none": 16 * h + 4 * i, "selective": 14 * h + 2 * i, "full": 2 * h}[recomputation]


def stage_flops(architecture: Architecture, stage: StageConfig, recomputation: Recomputation, load: Load) -> float:
    """Operations of the whole stage, recomputation of whole layers included."""
    shape = model_shape(architecture)
    tokens, images = load.samples * load.tokens, round(load.samples * load.images)
    needed = shape.step_flops(stage.trained, tokens, load.samples, images)
    if recomputation != "full":
        return needed
    decoder, tower = architecture.decoder, architecture.tower
    again = tokens * decoder.layers * (2 * decoder.matrices + 4 * decoder.query_width * load.tokens)
    if "vision" in stage.trained:
        again += images * tower.patches * tower.layers * (2 * tower.block + 4 * tower.hidden * tower.patches)
    return needed + again


def model_shape(architecture: Architecture) -> ModelShape:
    """The work of the model, as it is counted while it trains."""
    decoder, tower = architecture.decoder, architecture.tower
    looked_up = 0 if decoder.is_tied else decoder.vocabulary * decoder.hidden
    return ModelShape(
        vision=PartShape(tower.parameters - tower.patches * tower.hidden, tower.layers, tower.hidden),
        connector=PartShape(architecture.connector),
        language=PartShape(decoder.parameters - looked_up, decoder.layers, decoder.query_width),
        patches_per_image=tower.patches,
        tokens_per_image=architecture.image_tokens,
    )


def peak_tflops(planning: PlanningConfig) -> float:
    """Of one GPU: as stated, else by its name; 0 where neither tells."""
    return planning.gpu_tflops or (peak_flops(planning.gpu) or 0.0) / 1e12


def _remedy(
    architecture: Architecture, stage: StageConfig, train: TrainConfig, planning: PlanningConfig, load: Load
) -> str:
    """The mildest changes under which the stage fits, as settings; else how many GPUs its state alone needs."""
    room = USABLE_SHARE * planning.gpu_memory_gb * GB
    size = shard_size(train, planning)
    for micro in _halves(stage.micro_batch_size):
        for recomputation in _stronger(train.activation_checkpointing):
            smaller = replace(stage, micro_batch_size=micro)
            if stage_memory(architecture, smaller, train.num_workers, size, recomputation, load).total <= room:
                changes = [f"its micro_batch_size={micro}"] if micro != stage.micro_batch_size else []
                if recomputation != train.activation_checkpointing:
                    changes.append(f"train.activation_checkpointing={recomputation}")
                return "set " + " and ".join(changes)
    smallest = replace(stage, micro_batch_size=1)
    for workers in (2**n for n in range(1, 13) if 2**n > size):
        if stage_memory(architecture, smallest, workers, workers, "full", load).total <= room:
            return f"train.num_workers={workers}, train.shard_size={workers} and full activation checkpointing"
    return "no number of such GPUs is enough: take larger ones"


def _halves(number: int) -> list[int]:
    return [number >> n for n in range(number.bit_length())]


def _stronger(recomputation: Recomputation) -> list[Recomputation]:
    every: list[Recomputation] = ["none", "selective", "full"]
    return every[every.index(recomputation) :]
