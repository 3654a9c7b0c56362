"""How fast a stage could go if one resource alone bound it, each with its formula. Pure.

GPUs      captions: stated or measured rate of an actor × actors, for another GPU than the rate's by the smaller of
          their ratios of computing and of memory bandwidth · training: operations ÷ (GPUs × peak × utilization)
network   bytes of the images that pass ÷ what the pool's machines take in
decoding  images ÷ (CPUs × images that one of them reads, decodes and resizes)
gradients of N nodes, each step: (N − 1) ÷ N of 2 × 4 bytes a trained parameter, between copies of the model; where
          one copy spans nodes, 4 bytes, and 2 × 2 bytes of every parameter for each micro-batch ÷ what a machine's
          network takes in
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from vila2_ray.campaign.pricelist import Machine, PriceBook
from vila2_ray.config import Config, PlanningConfig, StageConfig, TrainConfig
from vila2_ray.errors import ConfigError
from vila2_ray.model.architecture import Architecture
from vila2_ray.train.memory import Load, model_shape, stage_flops
from vila2_ray.train.throughput import peak_flops

TFLOP = 1e12


@dataclass(frozen=True)
class Resource:
    """How fast a stage could go if nothing else bound it."""

    name: str
    per_second: float
    """Samples of the stage."""
    basis: str
    """The same as a formula with its numbers."""


def caption_rate(config: Config, machine: Machine | None, book: PriceBook) -> tuple[float, str]:
    """Captions per second of an actor on the pool's GPU, and how it is reckoned."""
    rates = config.rates
    told = f"{rates.captions:g}/s ({rates.basis or 'stated'})"
    if not rates.gpu or machine is None or not machine.gpu or machine.gpu == rates.gpu:
        return rates.captions, told
    known = next((other for other in book.machines.values() if other.gpu == rates.gpu), Machine())
    have, stated = peak_flops(machine.gpu) or 0.0, peak_flops(rates.gpu) or 0.0
    if not (have and stated and known.gpu_bandwidth and machine.gpu_bandwidth):
        remedy = f"cannot be compared with {machine.gpu}; measure rates.captions on one and leave rates.gpu empty"
        raise ConfigError("rates.gpu", rates.gpu, remedy)
    pace = machine.gpu_bandwidth / known.gpu_bandwidth
    share, why = min(
        (have / stated, f"{have / TFLOP:g} ÷ {stated / TFLOP:g} TFLOP/s"),
        (pace, f"{machine.gpu_bandwidth:g} ÷ {known.gpu_bandwidth:g} GB/s"),
    )
    share = min(1.0, share)
    rate = rates.captions * share
    return rate, f"{told} × {why} ({machine.gpu} beside {rates.gpu}, not measured) = {rate:.4g}/s"


def image_resources(nodes: int, machine: Machine | None, cpus: float, config: Config) -> list[Resource]:
    """How many images a second the pool reads, and decodes."""
    size, rate = config.planning.bytes_per_image, config.rates.decoded_images
    found = [Resource("decoding", cpus * rate, f"{cpus:g} CPUs × {rate:g} images/s")] if cpus else []
    if machine and machine.network:
        bytes_per_second = nodes * machine.network * 1e9 / 8
        basis = f"{nodes} × {machine.network:g} Gbit/s ÷ 8 ÷ {size:,} bytes"
        found.append(Resource("network", bytes_per_second / size, basis))
    return found


def gradients(
    nodes: int,
    per_node: int,
    machine: Machine,
    stage: StageConfig,
    train: TrainConfig,
    trained: int,
    parameters: int,
    samples_per_step: float,
) -> Resource:
    """What crosses a machine's network in a step, as train/shard.py lays models out."""
    size = train.shard_size or min(train.num_workers, per_node)
    if size <= per_node:
        sent, what = 8.0 * trained, f"8 bytes × {trained / 1e9:.4g} B trained"
    else:
        pieces = max(1, math.ceil(stage.batch_size / (train.num_workers * stage.micro_batch_size)))
        sent = 4.0 * trained + 4.0 * parameters * pieces
        what = f"4 bytes × ({trained / 1e9:.4g} B trained + {pieces} × {parameters / 1e9:.4g} B)"
    bytes_per_second = machine.network * 1e9 / 8
    seconds = sent * (nodes - 1) / nodes / bytes_per_second
    basis = (
        f"{samples_per_step:,.1f} a step ÷ ({nodes - 1}/{nodes} × {what} ÷ ({machine.network:g} Gbit/s ÷ 8) "
        f"= {seconds:,.3g} s)"
    )
    return Resource("gradients", samples_per_step / seconds, basis)


def operations(architecture: Architecture, stage: StageConfig, train: TrainConfig, load: Load) -> str:
    """The terms of a training stage's operations (train/memory.py), per sample."""
    shape, decoder = model_shape(architecture), architecture.decoder
    total = stage_flops(architecture, stage, train.activation_checkpointing, load) / load.samples
    weights, passes = shape.language.num_parameters, 3 if "language" in stage.trained else 2
    forward = 2.0 * load.tokens
    terms = [(f"{load.tokens} tokens × 2 × {weights / 1e9:.4g} B × {passes} passes", forward * weights * passes)]
    if train.activation_checkpointing == "full":
        again = decoder.layers * decoder.matrices
        terms.append((f"{load.tokens} × 2 × {again / 1e9:.4g} B once again", forward * again))
    tower, learns = shape.vision.num_parameters, "vision" in stage.trained
    passes = (4 if train.activation_checkpointing == "full" else 3) if learns else 1
    patches = shape.patches_per_image * load.images
    terms.append((f"{patches:g} patches × 2 × {tower / 1e9:.3g} B × {passes}", 2.0 * patches * tower * passes))
    said = " + ".join(f"{what} = {part:.4g}" for what, part in terms)
    rest = total - sum(part for _, part in terms)
    return f"a sample is {said}; attention and connector {rest:.3g}; together {total:.4g} operations × {load.samples:,}"


def peak(machine: Machine | None, planning: PlanningConfig) -> float:
    """Operations per second of one of a machine's GPUs, dense bfloat16; 0 where they are not known."""
    return peak_flops(machine.gpu if machine and machine.gpu else planning.gpu) or 0.0


def number(value: float) -> str:
    """Four digits, without powers of ten."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
