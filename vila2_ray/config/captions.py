"""How captions are written, judged, chosen and fused with alt text."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from vila2_ray.config.fields import check_labels, check_positive, check_share, operational
from vila2_ray.errors import ConfigError

Rule = Literal["alt_text", "recaption", "concat", "mixed"]
PickRule = Literal["none", "mean_logprob", "min_logprob", "agreement", "scorer"]
Raters = Literal["all", "people"]
EngineName = Literal["auto", "vllm", "transformers", "fake"]


@dataclass(frozen=True)
class SamplingConfig:
    """Decoding. The papers leave it open; greedy is the default."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 128
    min_tokens: int = 1

    def __post_init__(self) -> None:
        check_positive("recaption.sampling", self, "max_tokens", "top_p")
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
    label_selector: dict[str, str] = operational(factory=dict)
    """Ray labels of the nodes on which captions are read, written, scored and served, for example
    {ray-subcluster: recaption}; nodes that are started for it have them as well. Empty: any node."""
    max_dead_ranges: int = operational(8)
    """Deaths of an engine's process in one pass (and one more per thousand row ranges) before the stage gives up. What
    it had in hand is tried once more, then in smaller pieces, down to the samples that do it, which become failed rows.
    A node that is lost counts as well."""
    max_failed_ranges: int = operational(8)
    """Row ranges in a row, of all actors or of one, that end without any caption because the engine or the storage
    errs, before the stage gives up (once they hold half as many samples as so many full ranges). 0: never."""

    def __post_init__(self) -> None:
        check_positive("recaption.engine", self, "batch_size", "min_actors", "cpus_per_actor", "tensor_parallel")
        check_positive("recaption.engine", self, "kv_cache_gb", "gpu_memory_share", "decode_threads")
        check_labels("recaption.engine.label_selector", self.label_selector)
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
        check_positive("recaption", self, "num_variants", "range_rows")
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
        check_share("filters", self, "max_repeated_ngram_share", "drop_lowest_min_logprob_share")
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
        check_share("pick.fallback_alt_text", self, "min_agreement")


@dataclass(frozen=True)
class PickConfig:
    """Which of a sample's captions is trained on. The others get the flag `not_picked`; any change costs no GPU."""

    by: PickRule = "none"
    """`none`: all that the filters keep. `mean_logprob`: the highest mean token log-probability. `min_logprob`: the
    highest lowest token. `agreement`: the highest mean token F1 with the others. `scorer`: the highest image–text
    similarity, against which the alt text competes too (as in BLIP's CapFilt, arXiv 2201.12086)."""
    layers: Literal["latest", "all"] = "latest"
    """`latest`: among the variants of the round's own layer. `all`: among those of every round so far; the round then
    trains on all of these layers. The last full pass always picks among its own variants. With `by: none`, earlier
    rounds' captions are there for votes alone."""
    scorer: str = operational("")
    """A CLIP or SigLIP folder (safetensors), local or a URI, for `by: scorer`. Its digest enters fingerprints, not its
    path. Texts longer than its context are judged by their beginning."""
    fallback_alt_text: FallbackConfig = field(default_factory=FallbackConfig)
    votes: str = operational("")
    """A file of `vila2 judge export` (CSV or Parquet), local or a URI. Where raters have compared a sample's captions,
    the best voted one is picked, or none where that is the alt text; elsewhere `by` decides. Where a person has edited
    a caption, the edit is trained on in its place. The votes and edits that count for a layer enter fingerprints, and
    neither path nor file: votes on one round's captions leave the other rounds as they are."""
    criterion: str = operational("overall")
    """Of `votes`: what the better one is better by. Enters fingerprints by the votes that it leaves."""
    raters: Raters = operational("all")
    """Of `votes`: whose count, models' as well as people's, or people's alone. Edits are always people's."""

    def __post_init__(self) -> None:
        if not self.criterion or self.criterion == "edit":
            remedy = "name what was asked of the raters: overall, hallucination, detail or fluency"
            raise ConfigError("pick.criterion", self.criterion, remedy)
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
        check_positive("drift", self, "min_captions")
        others = ("stop", "min_captions", "min_words_per_caption")
        check_share("drift", self, *(spec.name for spec in dataclasses.fields(self) if spec.name not in others))


@dataclass(frozen=True)
class FuseConfig:
    """How alt text and recaption become training text."""

    rule: Rule = "concat"
    """`concat` is the paper's; `mixed` trains on both as items of their own; `recaption` falls back to alt text."""
    prompted: bool = False
    """Ask for alt text by the brief prompt and for recaptions by their own, instead of plain text after the image."""
    brief_prompt_id: str = "brief"
