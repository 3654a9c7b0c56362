"""What can be configured: dataclasses, each field with its meaning and default; `recipe` fills them in.

Every field is *semantic* (it decides what is made, and enters the fingerprints of the stages that read it) or
*operational* (it decides how fast, where or at what price; changing it invalidates nothing). Fields are semantic unless
declared otherwise.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from vila2_ray.errors import ConfigError

Rule = Literal["alt_text", "recaption", "concat", "mixed"]
PickRule = Literal["none", "mean_logprob", "min_logprob", "agreement", "scorer"]
EngineName = Literal["auto", "vllm", "transformers", "fake"]
Part = Literal["vision", "connector", "language"]
TrainingStage = Literal["align", "pretrain", "sft"]
Tracker = Literal["tensorboard", "mlflow", "wandb"]
SourceKind = Literal["pairs", "documents", "text", "chat"]


_OWN: dict[str, SourceKind] = {"pretrain": "pairs", "sft": "chat"}
"""The sources that have a field of their own, and their kinds."""


def operational(default: Any = dataclasses.MISSING, *, factory: Any = dataclasses.MISSING) -> Any:
    """A field that no fingerprint contains."""
    if factory is not dataclasses.MISSING:
        return field(default_factory=factory, metadata={"operational": True})
    return field(default=default, metadata={"operational": True})


def _positive(prefix: str, obj: object, *names: str) -> None:
    for name in names:
        if getattr(obj, name) <= 0:
            raise ConfigError(f"{prefix}.{name}", getattr(obj, name), "must be greater than 0")


def _share(prefix: str, obj: object, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(obj, name) <= 1:
            raise ConfigError(f"{prefix}.{name}", getattr(obj, name), "must lie between 0 and 1")


@dataclass(frozen=True)
class ColumnsConfig:
    """Names under which a corpus keeps what we read. Tar shards: member extensions; Parquet: column names."""

    image: str = "image"
    """Parquet column of encoded image bytes (or a struct with a `bytes` field); tars go by image extensions."""
    alt_text: str = "caption"
    """Parquet column, and the field of `<key>.json` that is read where a tar has no `<key>.txt`."""
    key: str = "key"
    """Parquet column; rows are numbered where it is absent."""
    license: str = "license"
    """Extra column that the data card counts."""


@dataclass(frozen=True)
class SourceConfig:
    """One source of training data. Those named pretrain and sft are corpus.pretrain and corpus.sft."""

    uri: str = operational("")
    """Shards, as above; also JSON Lines, or JSON lists as LLaVA's. Empty for the sources pretrain and sft."""
    images: str = operational("")
    """Folder that image paths in JSON are relative to. Empty: where the JSON lies."""
    kind: SourceKind = "pairs"
    """`pairs`: image and alt text. `documents`: images and texts as they alternate. `text`: text alone. `chat`:
    conversations. Only corpus.pretrain is recaptioned."""
    stages: tuple[TrainingStage, ...] = ()
    """Training stages that it is part of. Empty: sft for chat, pretrain for all else (align as well for the source
    pretrain)."""
    weight: float = 1.0
    """Share of its samples that an epoch takes, drawn anew for each by a hash."""
    repeat: int = 1
    """How many times an epoch takes each of them."""

    def __post_init__(self) -> None:
        _positive("corpus.sources.<name>", self, "weight", "repeat")
        _share("corpus.sources.<name>", self, "weight")
        if not set(self.stages) <= set(get_args(TrainingStage)):
            raise ConfigError("corpus.sources.<name>.stages", self.stages, "name some of align, pretrain, sft")


@dataclass(frozen=True)
class CorpusConfig:
    """Where shards lie. Each is a folder, a glob or a single file, local or any pyarrow.fs URI.

    The paths are operational: what lies there enters fingerprints by its digest, so a corpus can be moved.
    """

    pretrain: str = operational("")
    """Image–alt-text shards that are trained on and recaptioned."""
    sft: str = operational("")
    """Conversation shards (LLaVA-style `conversations` in `<key>.json`)."""
    heldout: str = operational("")
    """Scored after every round, never trained on. Empty: scores fall back to what needs no held-out set."""
    sources: dict[str, SourceConfig] = field(default_factory=dict, metadata={"nodes": True})
    """Further sources of training data by name, mixed with the above; or how much of the above is used."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    max_pixels: int = 64_000_000
    """An image whose header promises more is refused before decoding."""

    def __post_init__(self) -> None:
        _positive("corpus", self, "max_pixels")
        for name, source in self.sources.items():
            where = f"corpus.sources.{name}"
            if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name) or name == "heldout":
                raise ConfigError(where, name, "a name has small letters, digits, - and _, and is not heldout")
            if name in _OWN and (source.uri or source.kind != _OWN[name]):
                raise ConfigError(f"{where}.uri", source.uri, f"say corpus.{name}=…; its kind is {_OWN[name]}")
            if name not in _OWN and not source.uri:
                raise ConfigError(f"{where}.uri", source.uri, "name a folder, glob or file of shards")
        for stage in get_args(TrainingStage):
            for name in self.sources_of(stage):
                if stage not in self.source(name).stages:
                    stages = self.source(name).stages
                    raise ConfigError(f"corpus.sources.{name}.stages", stages, f"leaves {stage} without a source")

    def uri(self, name: str) -> str:
        """Where a source (or the held-out corpus) lies; "" where it is not set."""
        return getattr(self, name) if name in (*_OWN, "heldout") else self.sources[name].uri

    def source(self, name: str) -> SourceConfig:
        """A source with its stages filled in; pretrain and sft are there without being told of in `sources`."""
        found = self.sources.get(name) or SourceConfig(kind=_OWN[name])
        default: tuple[TrainingStage, ...] = ("sft",) if found.kind == "chat" else ("pretrain",)
        default = ("align", "pretrain") if name == "pretrain" else default
        return dataclasses.replace(found, stages=found.stages or default)

    def sources_of(self, stage: TrainingStage) -> tuple[str, ...]:
        """Names of the sources that a training stage mixes, its own first; that one at least, even if it is not set."""
        own = "sft" if stage == "sft" else "pretrain"
        names = [own, *sorted({*_OWN, *self.sources} - {own})]
        return tuple(name for name in names if self.uri(name) and stage in self.source(name).stages) or (own,)


@dataclass(frozen=True)
class ScreenConfig:
    """Which samples are left out before anything is captioned or trained on; all rules are off by default.

    Verdicts are written per sample, so that nothing vanishes silently. Lists are operational as paths: their content
    enters fingerprints (held-out hashes), or is read whenever something is trained or exported (takedowns).
    """

    min_side: int = 0
    """Pixels of the shorter side below which a picture is left out. 0: no limit."""
    max_aspect: float = 0.0
    """Longer ÷ shorter side above which a picture is left out. 0: no limit."""
    exact_duplicates: bool = False
    """Keep the first, in corpus order, of samples with the same encoded bytes."""
    near_duplicates: bool = False
    """Leave out a picture that looks like one before it: perceptual hashes at most near_distance bits apart."""
    near_distance: int = 4
    """Of 64 bits; also for held-out perceptual hashes."""
    heldout: bool = False
    """Leave out, in pretraining and SFT, what is in corpus.heldout or looks like it (decontamination)."""
    heldout_hashes: tuple[str, ...] = operational(())
    """Files of hashes, one a line: SHA-256 of encoded pictures or perceptual hashes; `vila2 hash` makes one."""
    takedown: str = operational("")
    """File of sample ids, SHA-256 of encoded pictures or URLs, one a line, that are never used again: by no training
    stage, recaptioning or export that starts after the list has grown."""

    def __post_init__(self) -> None:
        for name in ("min_side", "max_aspect"):
            if getattr(self, name) < 0:
                raise ConfigError(f"screen.{name}", getattr(self, name), "must not be negative; 0 is no limit")
        if 0 < self.max_aspect < 1:
            raise ConfigError("screen.max_aspect", self.max_aspect, "is longer ÷ shorter side, so at least 1; 0: off")
        if not 0 <= self.near_distance <= 12:
            raise ConfigError("screen.near_distance", self.near_distance, "must lie between 0 and 12 of 64 bits")

    @property
    def finds_heldout(self) -> bool:
        """Whether samples are compared with held-out pictures."""
        return self.heldout or bool(self.heldout_hashes)

    @property
    def finds_duplicates(self) -> bool:
        """Whether samples are compared with each other."""
        return self.exact_duplicates or self.near_duplicates

    @property
    def is_on(self) -> bool:
        """Whether a campaign has a screening stage; takedowns need none."""
        return bool(self.min_side or self.max_aspect) or self.finds_heldout or self.finds_duplicates


@dataclass(frozen=True)
class BaseConfig:
    """The weights that every round starts from."""

    checkpoint: str = operational("")
    """A Hugging Face folder (safetensors), local or a URI; `recipe:tiny` is the one that ships with this package. Its
    digest enters fingerprints, not its path."""
    architecture: dict[str, Any] = operational(factory=dict)
    """What the folder's config.json would say, for `vila2 plan` as long as there is no folder."""


@dataclass(frozen=True)
class SamplingConfig:
    """Decoding. The papers leave it open; greedy is the default."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 128
    min_tokens: int = 1

    def __post_init__(self) -> None:
        _positive("recaption.sampling", self, "max_tokens", "top_p")
        if self.temperature < 0:
            raise ConfigError("recaption.sampling.temperature", self.temperature, "must not be negative")
        if self.min_tokens > self.max_tokens:
            raise ConfigError("recaption.sampling.min_tokens", self.min_tokens, "must not exceed max_tokens")


@dataclass(frozen=True)
class EngineConfig:
    """What generates, and on how much of the machine."""

    name: EngineName = operational("auto")
    """`auto` takes the best engine that runs on this machine and says which."""
    batch_size: int = operational(128)
    """Requests that the engine works on together."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = operational("auto")
    """`auto`: bfloat16 where the processor or GPU computes in it, else float32."""
    tensor_parallel: int = operational(1)
    """GPUs that share one model (vLLM); give `gpus_per_actor` the same number."""
    prefix_caching: bool = operational(True)
    """Keep what prompts and images begin with alike (vLLM): variants of an image are then encoded once."""
    max_model_length: int = operational(0)
    """Tokens of prompt, image and caption together (vLLM). 0: what the checkpoint allows."""
    gpu_memory_share: float = operational(0.9)
    """Of a GPU's memory, for weights and key–value cache (vLLM)."""
    kv_cache_gb: float = operational(1.0)
    """Key–value cache of vLLM on CPUs; on GPUs `gpu_memory_share` decides."""
    vllm: dict[str, Any] = operational(factory=dict)
    """Any other engine argument of vLLM by its name there."""
    decode_threads: int = operational(1)
    """Threads of an actor that decode and prepare images while its engine generates."""
    min_actors: int = operational(1)
    max_actors: int = operational(1)
    cpus_per_actor: float = operational(1.0)
    gpus_per_actor: float = operational(0.0)
    max_dead_ranges: int = operational(8)
    """Deaths of an engine's process in one pass (and one more per thousand row ranges) before the stage gives up. What
    it had in hand is tried again in smaller pieces, down to the samples that do it, which become failed rows."""
    max_failed_ranges: int = operational(8)
    """Row ranges in a row, of all actors or of one, that end without any caption because the engine or the storage
    errs, before the stage gives up (once they hold half as many samples as so many full ranges). 0: never."""

    def __post_init__(self) -> None:
        _positive("recaption.engine", self, "batch_size", "min_actors", "cpus_per_actor", "tensor_parallel")
        _positive("recaption.engine", self, "kv_cache_gb", "gpu_memory_share", "decode_threads")
        if self.max_actors < self.min_actors:
            raise ConfigError("recaption.engine.max_actors", self.max_actors, "must not be smaller than min_actors")


@dataclass(frozen=True)
class RecaptionConfig:
    """How a layer of captions is written."""

    prompt_ids: tuple[str, ...] = ("detailed", "narrative", "confident")
    """One is drawn per sample, by a hash, from the prompt family, as the paper does. Variants go on from it through
    this list: with num_variants = len(prompt_ids) every image is asked every prompt, with a single id and a temperature
    above 0 the variants are several draws of one prompt."""
    prompts: dict[str, str] = field(default_factory=dict)
    """Prompt id → text; adds to and overrides the built-in family."""
    num_variants: int = 1
    """Captions per sample: several prompts, or several draws of one (see prompt_ids). `pick` chooses among them."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    quantization: str = ""
    """Weight quantisation that vLLM applies or finds in the checkpoint (`fp8`, `awq`, `gptq` …). Empty: none."""
    processor: dict[str, Any] = field(default_factory=dict)
    """Settings of the checkpoint's image processor that bound what an image costs, for example `max_pixels`."""
    range_rows: int = operational(256)
    """Rows of a part: what a crash can cost at most, per actor."""
    engine: EngineConfig = operational(factory=EngineConfig)

    def __post_init__(self) -> None:
        _positive("recaption", self, "num_variants", "range_rows")
        if not self.prompt_ids:
            raise ConfigError("recaption.prompt_ids", self.prompt_ids, "name at least one prompt")

    @property
    def engine_settings(self) -> dict[str, Any]:
        """What decides captions beside the engine's own, operational fields: keyword arguments of `open_engine`."""
        return {"quantization": self.quantization, "processor": dict(self.processor)}


@dataclass(frozen=True)
class FiltersConfig:
    """Flags that leave a caption (never the sample) out of training. Any threshold can be changed without a GPU."""

    min_words: int = 3
    max_words: int = 400
    max_repeated_ngram_share: float = 0.3
    """Share of 4-grams that occur more than once."""
    drop_unfinished: bool = True
    drop_prompt_echo: bool = True
    drop_alt_text_copy: bool = True
    min_mean_logprob: float = -2.0
    """Mean token log-probability below which a caption is flagged."""
    drop_lowest_min_logprob_share: float = 0.0
    """Share of a layer's captions, those with the lowest minimum token log-probability, that is flagged."""
    cut_at_repeated_sentence: bool = True
    """Training text ends before the first sentence that is said twice."""

    def __post_init__(self) -> None:
        _share("filters", self, "max_repeated_ngram_share", "drop_lowest_min_logprob_share")
        if self.max_words < self.min_words:
            raise ConfigError("filters.max_words", self.max_words, "must not be smaller than min_words")


@dataclass(frozen=True)
class FallbackConfig:
    """What the best caption of a sample must reach; where it does not, none is picked and the alt text stays alone."""

    min_mean_logprob: float | None = None
    """Mean token log-probability, whatever the rule picks by. None: any."""
    min_min_logprob: float | None = None
    """Lowest token log-probability, whatever the rule picks by. None: any."""
    min_agreement: float = 0.3
    """Mean token F1 with the sample's other captions, in [0, 1]; for `agreement`. A caption without others has nothing
    to disagree with."""
    min_scorer_margin: float = 0.0
    """By how much the caption's image–text similarity must exceed the alt text's; for `scorer`."""

    def __post_init__(self) -> None:
        _share("pick.fallback_alt_text", self, "min_agreement")


@dataclass(frozen=True)
class PickConfig:
    """Which of a sample's captions is trained on. The others get the flag `not_picked`; any change costs no GPU."""

    by: PickRule = "none"
    """`none`: all that the filters keep. `mean_logprob`: the highest mean token log-probability. `min_logprob`: the
    highest lowest token. `agreement`: the highest mean token F1 with the others. `scorer`: the highest image–text
    similarity, against which the alt text competes too (as in BLIP's CapFilt, arXiv 2201.12086)."""
    layers: Literal["latest", "all"] = "latest"
    """`latest`: among the variants of the round's own layer. `all`: among those of every round so far; the round then
    trains on all of these layers. The last full pass always picks among its own variants."""
    scorer: str = operational("")
    """A CLIP or SigLIP folder (safetensors), local or a URI, for `by: scorer`. Its digest enters fingerprints, not its
    path. Texts longer than its context are judged by their beginning."""
    fallback_alt_text: FallbackConfig = field(default_factory=FallbackConfig)

    def __post_init__(self) -> None:
        if (self.by == "scorer") != bool(self.scorer):
            remedy = "name a CLIP or SigLIP folder for pick.by=scorer, and only for it"
            raise ConfigError("pick.scorer", self.scorer, remedy)


@dataclass(frozen=True)
class DriftConfig:
    """What a layer's figures may come to before it counts as collapsed. All operational: a border is no output.

    The defaults let pass whatever a working model writes, long or short, and stop what nobody would train on.
    """

    stop: bool = operational(True)
    """A collapse stops the campaign before it trains on the layer. False: it is only told of."""
    min_captions: int = operational(30)
    """A layer with fewer is not judged: shares of a few say nothing."""
    min_words_per_caption: float = operational(2.0)
    max_empty_share: float = operational(0.05)
    """Captions without a letter, digit or pictogram."""
    max_refusal_share: float = operational(0.1)
    """Captions such as "I'm sorry, I cannot …"."""
    max_prompt_echo_share: float = operational(0.3)
    max_unfinished_share: float = operational(0.9)
    """Captions that max_tokens cut off."""
    max_repeated_4gram_share: float = operational(0.5)
    """Mean over captions of the share of 4-grams that were said before in the same caption."""
    max_share_starting_alike: float = operational(0.8)
    """Captions with the commonest first six words."""
    max_share_identical: float = operational(0.5)
    """Captions that are the commonest one, word for word."""
    max_alt_text_similarity: float = operational(0.95)
    """Mean token F1 with the alt text: above it, nothing is added."""
    min_previous_similarity: float = operational(0.05)
    """Mean token F1 with the previous round's caption of the same sample."""
    min_words_ratio: float = operational(0.3)
    """Words per caption, divided by the previous round's."""
    min_vocabulary_ratio: float = operational(0.3)
    """Different words in the layer, divided by the previous round's."""

    def __post_init__(self) -> None:
        _positive("drift", self, "min_captions")
        others = ("stop", "min_captions", "min_words_per_caption")
        _share("drift", self, *(spec.name for spec in dataclasses.fields(self) if spec.name not in others))


@dataclass(frozen=True)
class FuseConfig:
    """How alt text and recaption become training text."""

    rule: Rule = "concat"
    """`concat` is the paper's; `mixed` trains on both as items of their own; `recaption` falls back to alt text."""
    prompted: bool = False
    """Ask for alt text by the brief prompt and for recaptions by their own, instead of plain text after the image."""
    brief_prompt_id: str = "brief"


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
        _positive("train.<stage>", self, "num_epochs", "batch_size", "peak_lr", "max_length", "micro_batch_size")
        _positive("train.<stage>", self, "max_grad_norm")
        if self.max_samples_per_sequence < 0:
            raise ConfigError("train.<stage>.max_samples_per_sequence", self.max_samples_per_sequence, "0 is no limit")
        _share("train.<stage>", self, "warmup_share", "min_lr_share")
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
        _positive("train", self, "num_workers", "cpus_per_worker", "shuffle_window", "keep_checkpoints")
        if self.shard_size < 0 or (self.shard_size and self.num_workers % self.shard_size):
            remedy = f"must divide train.num_workers, {self.num_workers}; 0 takes the workers of a node"
            raise ConfigError("train.shard_size", self.shard_size, remedy)
        _positive("train", self, "max_left_out_steps")
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

    def command_of(self, name: str) -> tuple[str, ...]:
        """The command that trains this stage; empty where we do."""
        return self.command if name in self.command_stages else ()


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
class ExportConfig:
    """What the last stage writes for other tools."""

    format: Literal["webdataset", "parquet", "captions"] = "captions"
    to: str = operational("")
    """Folder; empty: `<campaign>/export/<format>`."""


@dataclass(frozen=True)
class RatesConfig:
    """Rates that a plan is made with before the campaign has measured its own; all operational. Per second."""

    captions: float = operational(0.0)
    """Of one caption actor. 0: unknown, and said so."""
    align_samples: float = operational(0.0)
    """Of one training worker."""
    pretrain_samples: float = operational(0.0)
    sft_samples: float = operational(0.0)
    basis: str = operational("")
    """Where the figures come from, for the plan's readers."""


@dataclass(frozen=True)
class PlanningConfig:
    """What `vila2 plan` computes memory and time of training with; all operational."""

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

    def __post_init__(self) -> None:
        _positive("planning", self, "gpus_per_node", "utilization")
        _share("planning", self, "utilization")


@dataclass(frozen=True)
class PricesConfig:
    """What the ledger multiplies seconds with; all operational."""

    node_dollars_per_hour: float = operational(0.10)
    """Of the machine that runs a local campaign; clusters bring their own lists."""
    human_dollars_per_1000_captions: float = operational(36.0)
    """VILA², arXiv 2407.17453, gives $36 per 1,000 human captions."""


@dataclass(frozen=True)
class Config:
    """A whole campaign."""

    campaign: str = operational("runs/tiny")
    """Folder (any pyarrow.fs URI) that holds everything the campaign writes."""
    recipe: str = operational("")
    seed: int = 0
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    screen: ScreenConfig = field(default_factory=ScreenConfig)
    base: BaseConfig = field(default_factory=BaseConfig)
    recaption: RecaptionConfig = field(default_factory=RecaptionConfig)
    filters: FiltersConfig = field(default_factory=FiltersConfig)
    pick: PickConfig = field(default_factory=PickConfig)
    drift: DriftConfig = operational(factory=DriftConfig)
    layers: dict[str, str] = operational(factory=dict)
    """Layer → the retried layer that later stages read in its place, for example round-1: round-1-retry-1, as
    `vila2 retry` made it. Its digest enters their fingerprints."""
    fuse: FuseConfig = field(default_factory=FuseConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    rounds: RoundsConfig = field(default_factory=RoundsConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    rates: RatesConfig = operational(factory=RatesConfig)
    planning: PlanningConfig = operational(factory=PlanningConfig)
    prices: PricesConfig = operational(factory=PricesConfig)

    def __post_init__(self) -> None:
        for layer, retried in self.layers.items():
            if not re.fullmatch(re.escape(layer) + r"-retry-[1-9]\d*", retried):
                raise ConfigError(f"layers.{layer}", retried, f"name a layer that retried it, {layer}-retry-1 for one")
        if self.pick.by == "agreement" and self.pick.layers == "latest" and self.recaption.num_variants == 1:
            remedy = "one caption per sample has nothing to agree with: raise recaption.num_variants or pick.layers=all"
            raise ConfigError("pick.by", self.pick.by, remedy)


def semantic_fields(node: Any, prefix: str) -> dict[str, Any]:
    """Flat `dotted.name → value` of the semantic fields below a configuration node."""
    flat: dict[str, Any] = {}
    for spec in dataclasses.fields(node):
        if spec.metadata.get("operational"):
            continue
        value, name = getattr(node, spec.name), f"{prefix}.{spec.name}" if prefix else spec.name
        if spec.metadata.get("nodes"):
            for key, below in value.items():
                flat.update(semantic_fields(below, f"{name}.{key}"))
        elif dataclasses.is_dataclass(value):
            flat.update(semantic_fields(value, name))
        else:
            flat[name] = list(value) if isinstance(value, tuple) else value
    return flat
