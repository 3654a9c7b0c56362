"""The outer loop: rounds, scores, and what plans and ledgers reckon with."""

from __future__ import annotations

from dataclasses import dataclass

from vila2_ray.config.fields import check_not_negative, check_positive, check_share, operational
from vila2_ray.errors import ConfigError


@dataclass(frozen=True)
class RoundsConfig:
    """The outer loop."""

    max: int = operational(3)
    """Recaption-and-train rounds after VLM_0. Zero: VLM_0 only."""
    fraction: float = 1.0
    """Share of the corpus that a round captions; a last full pass captions the rest and keeps those rows."""
    metric: str = "auto"
    """Held-out score that saturation and promotion go by; `auto` takes the richest one that can be computed."""
    min_gain: float = operational(0.002)
    """A round that gains less saturates the campaign."""

    def __post_init__(self) -> None:
        if self.max < 0:
            raise ConfigError("rounds.max", self.max, "must not be negative")
        if not 0 < self.fraction <= 1:
            raise ConfigError("rounds.fraction", self.fraction, "must be in (0, 1]")


@dataclass(frozen=True)
class EvaluateConfig:
    """Held-out scoring after every round."""

    prompt_id: str = "detailed"
    max_tokens: int = 128
    answer_max_tokens: int = 16
    max_samples: int = 0
    """0: all of them."""


@dataclass(frozen=True)
class RatesConfig:
    """Rates that a plan is made with before the campaign has measured its own; all operational. Per second."""

    captions: float = operational(0.0)
    """Of one caption actor. 0: unknown, and said so."""
    gpu: str = operational("")
    """GPU that `captions` is of. A plan for a cluster with others takes the share that theirs have of its computing or,
    where that is less, of its memory's bandwidth. Empty: whatever GPU the cluster has."""
    align_samples: float = operational(0.0)
    """Of one training worker."""
    pretrain_samples: float = operational(0.0)
    sft_samples: float = operational(0.0)
    decoded_images: float = operational(100.0)
    """That one CPU reads from storage, decodes and resizes; a photograph of half a megapixel takes about 10 ms."""
    basis: str = operational("")
    """Where the figures come from, for the plan's readers."""

    def __post_init__(self) -> None:
        check_positive("rates", self, "decoded_images")


@dataclass(frozen=True)
class PlanningConfig:
    """What `vila2 plan` computes memory, time and cost with; all operational."""

    gpu: str = operational("")
    """Its name, for example H100."""
    gpu_memory_gb: float = operational(0.0)
    """0: unknown, so nothing is said of what fits."""
    gpu_tflops: float = operational(0.0)
    """Peak in bfloat16, dense, float32 accumulation. 0: by the name, where train/throughput.py knows it."""
    gpus_per_node: int = operational(8)
    utilization: float = operational(0.4)
    """Share of that peak that training reaches, recomputation counted as work."""
    samples: dict[str, int] = operational(factory=dict)
    """Corpus (pretrain, sft, heldout) or stage (align …) → samples, where there is nothing yet to count."""
    tokens_per_sample: dict[str, int] = operational(factory=dict)
    """Stage → tokens of its average sample, those of its image included."""
    bytes_per_image: int = operational(100_000)
    """Encoded, as it lies in a shard."""
    bytes_per_caption: int = operational(600)
    """Of a caption row in a layer's Parquet file."""
    nodes: dict[str, int] = operational(factory=dict)
    """Group of nodes → how many there may be, in place of what the cluster's file says: what a larger one would do."""
    start_minutes: float = operational(10.0)
    """From the wish for a node to its first work: machine, image, weights. Paid for."""
    idle_minutes: float = operational(5.0)
    """That a node is kept when its work is done; the launcher's idle_timeout_minutes."""
    spot_overhead: float = operational(0.05)
    """Share of time that taken spot machines cost: work done again, waiting for others."""

    def __post_init__(self) -> None:
        check_positive("planning", self, "gpus_per_node", "utilization", "bytes_per_image", "bytes_per_caption")
        check_share("planning", self, "utilization")
        for name in ("start_minutes", "idle_minutes", "spot_overhead"):
            check_not_negative("planning", self, name)


@dataclass(frozen=True)
class PricesConfig:
    """What the ledger multiplies seconds with; all operational."""

    node_dollars_per_hour: float = operational(0.10)
    """Of the machine that runs a local campaign, and of nodes that neither `nodes` nor `file` has a price of."""
    nodes: dict[str, float] = operational(factory=dict)
    """Group of nodes (a node type of the launcher's file, a worker group of KubeRay's) → dollars per hour of one node,
    whatever `file` says."""
    machines: dict[str, str] = operational(factory=dict)
    """Group of nodes → machine of that file, where the cluster's file does not say: {recaption: g6e.2xlarge}."""
    file: str = operational("")
    """YAML of machines and prices, as cluster/prices.yaml, which is taken by default where `cluster` is named."""
    human_dollars_per_1000_captions: float = operational(36.0)
    """VILA², arXiv 2407.17453, gives $36 per 1,000 human captions."""

    def __post_init__(self) -> None:
        check_not_negative("prices", self, "node_dollars_per_hour", "human_dollars_per_1000_captions")
        for group, dollars in self.nodes.items():
            if dollars < 0:
                raise ConfigError(f"prices.nodes.{group}", dollars, "must not be negative")
