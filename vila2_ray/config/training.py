"""The training stages and what they run on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from vila2_ray.config.corpus import TrainingStage
from vila2_ray.config.fields import check_labels, check_positive, check_share, operational
from vila2_ray.errors import ConfigError

Part = Literal["vision", "connector", "language"]
Tracker = Literal["tensorboard", "mlflow", "wandb"]


@dataclass(frozen=True)
class BaseConfig:
    """The weights that every round starts from."""

    checkpoint: str = operational("")
    """A Hugging Face folder (safetensors), local or a URI; `recipe:tiny` is the one that ships with this package. Its
    digest enters fingerprints, not its path."""
    architecture: dict[str, Any] = operational(factory=dict)
    """What the folder's config.json would say, for `vila2 plan` as long as there is no folder."""


@dataclass(frozen=True)
class StageConfig:
    """One training stage: METHOD's table, a row each."""

    trained: tuple[Part, ...] = ("connector",)
    num_epochs: float = 1.0
    batch_size: int = 1024
    """Training sequences per optimizer step, over all ranks."""
    peak_lr: float = 1e-3
    vision_lr_factor: float = 1.0
    """The vision tower's peak learning rate is peak_lr times this."""
    warmup_share: float = 0.03
    min_lr_share: float = 0.0
    """Where the cosine ends, as a share of peak_lr."""
    weight_decay: float = 0.0
    adam_beta2: float = 0.999
    max_grad_norm: float = 1.0
    max_length: int = 4096
    """Tokens of a sequence, image tokens included."""
    max_samples_per_sequence: int = 1
    """1: none are packed. 0: as many as max_length holds; attention stays within each."""
    micro_batch_size: int = operational(32)
    """Sequences per forward pass of one rank; gradients accumulate up to batch_size."""
    max_steps: int = 0
    """0: as many as the epochs hold."""

    def __post_init__(self) -> None:
        check_positive("train.<stage>", self, "num_epochs", "batch_size", "peak_lr", "max_length", "micro_batch_size")
        check_positive("train.<stage>", self, "max_grad_norm")
        if self.max_samples_per_sequence < 0:
            raise ConfigError("train.<stage>.max_samples_per_sequence", self.max_samples_per_sequence, "0 is no limit")
        check_share("train.<stage>", self, "warmup_share", "min_lr_share")
        if not self.trained or not set(self.trained) <= set(get_args(Part)):
            raise ConfigError("train.<stage>.trained", self.trained, f"name some of {', '.join(get_args(Part))}")


@dataclass(frozen=True)
class TrainConfig:
    """The three stages and what they run on."""

    align: StageConfig = field(default_factory=lambda: StageConfig(trained=("connector",), peak_lr=1e-3))
    pretrain: StageConfig = field(default_factory=lambda: StageConfig(trained=("language", "connector"), peak_lr=5e-5))
    sft: StageConfig = field(
        default_factory=lambda: StageConfig(trained=("vision", "connector", "language"), peak_lr=2e-5)
    )
    data_workers: int = operational(0)
    """CPUs beside those of each worker that read, decode and tokenize for it, by Ray Data. 0: a thread of its own."""
    shuffle_window: int = 65_536
    """Samples that are shuffled among each other, after shard order is."""
    num_workers: int = operational(1)
    """Ray Train workers (ranks)."""
    cpus_per_worker: float = operational(1.0)
    gpus_per_worker: float = operational(0.0)
    label_selector: dict[str, str] = operational(factory=dict)
    """Ray labels of the nodes that train, for example {ray-subcluster: train}. Empty: any node."""
    autocast: Literal["auto", "bfloat16", "float32"] = operational("auto")
    """`auto`: bfloat16 where the processor or GPU computes in it, else float32."""
    shard_size: int = operational(0)
    """Workers that share one copy of the model (FSDP2); each such group has its own copy, and gradients are exchanged
    between groups (HSDP). 0: the workers of a node; num_workers: one copy in all; 1: a copy on each worker."""
    activation_checkpointing: Literal["none", "selective", "full"] = operational("none")
    """What the backward pass computes again instead of keeping: nothing, what is cheap (norms, activations), or whole
    layers."""
    compile: bool = operational(False)
    """torch.compile, layer by layer: minutes at the start, faster steps after."""
    checkpoint_every_seconds: float = operational(60.0)
    checkpoint_every_steps: int = operational(0)
    """Also after every so many steps. 0: by time alone."""
    keep_checkpoints: int = operational(2)
    """Saved states that are kept while a stage is trained."""
    feature_cache_bytes: int = operational(2_000_000_000)
    """Memory per rank for outputs of a frozen vision tower, which repeat from epoch to epoch."""
    max_failures: int = operational(2)
    """Deaths of workers that a stage survives."""
    max_preemptions: int = operational(100)
    """Nodes taken away with notice that a stage survives, counted apart."""
    on_bad_loss: Literal["stop", "skip", "rollback"] = operational("stop")
    """What a loss or gradient that is no number, or a loss that jumps, leads to: the stage stops; the step is skipped;
    or training goes back to the last saved state and leaves the step out. Operational: it answers an accident, so that
    a stage that stopped can go on under another answer, and stages that met none stay valid."""
    spike_factor: float = operational(0.0)
    """A loss that lies this many robust standard deviations above the median of the last `spike_window` good ones is a
    jump; 8 to 15 let noise pass. 0: only what is no number is bad."""
    spike_window: int = operational(64)
    max_left_out_steps: int = operational(32)
    """Steps of a stage that may be skipped or left out before it stops after all."""
    trackers: tuple[Tracker, ...] = operational(("tensorboard",))
    """Where the course of a stage is logged live: event files below `metrics/`, MLflow, Weights & Biases. The latter
    two are told where to by their own environment variables."""
    tracking_project: str = operational("vila2")
    """MLflow's experiment, W&B's project."""
    command: tuple[str, ...] = ()
    """Words of a command that trains in our place: it gets the path of a manifest and leaves a Hugging Face folder
    (train/external.py). Empty: we train."""
    command_stages: tuple[TrainingStage, ...] = operational(("align", "pretrain", "sft"))
    """Stages that the command trains; the others are ours. Fingerprints hold the command where it trains."""
    check_with_vllm: bool = operational(False)
    """Before a stage is finished, its folder is also served by vLLM, where that runs, and must answer as trained."""

    def __post_init__(self) -> None:
        check_positive("train", self, "num_workers", "cpus_per_worker", "shuffle_window", "keep_checkpoints")
        check_labels("train.label_selector", self.label_selector)
        if self.shard_size < 0 or (self.shard_size and self.num_workers % self.shard_size):
            remedy = f"must divide train.num_workers, {self.num_workers}; 0 takes the workers of a node"
            raise ConfigError("train.shard_size", self.shard_size, remedy)
        check_positive("train", self, "max_left_out_steps")
        if self.data_workers < 0:
            raise ConfigError("train.data_workers", self.data_workers, "must not be negative; 0 reads in the workers")
        if self.spike_factor < 0:
            raise ConfigError("train.spike_factor", self.spike_factor, "must not be negative; 0 is off")
        if self.spike_window < 16:
            raise ConfigError("train.spike_window", self.spike_window, "must be at least 16 to tell a jump from noise")
        if not set(self.trackers) <= set(get_args(Tracker)):
            raise ConfigError("train.trackers", self.trackers, f"name some of {', '.join(get_args(Tracker))}, or none")

    def stage(self, name: str) -> StageConfig:
        if name not in get_args(TrainingStage):
            raise ConfigError("train stage", name, f"one of {', '.join(get_args(TrainingStage))}")
        return getattr(self, name)

    def with_stage(self, name: TrainingStage, settings: StageConfig) -> TrainConfig:
        """This, but for one stage."""
        stages: dict[str, Any] = {name: settings}
        return replace(self, **stages)

    def command_of(self, name: str) -> tuple[str, ...]:
        """The command that trains this stage; empty where we do."""
        return self.command if name in self.command_stages else ()
