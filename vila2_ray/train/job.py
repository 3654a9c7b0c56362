"""What a training stage is asked to do and what it answers."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vila2_ray.config import Config, SourceKind, StageConfig, TrainingStage, semantic_fields
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.layers import Layer
from vila2_ray.corpus.screening import Screening
from vila2_ray.corpus.verdicts import Verdicts
from vila2_ray.model.loading import checkpoint_digest
from vila2_ray.schema import PACK
from vila2_ray.storage import Store
from vila2_ray.train.packplan import ALL, Share


@dataclass(frozen=True)
class TrainingSource:
    """A corpus as one stage trains on it."""

    corpus: Corpus
    kind: SourceKind
    share: Share = ALL
    layers: list[tuple[Layer, Verdicts | None]] = field(default_factory=list)
    """Caption layers with what is thought of them; for pairs."""
    screening: Screening | None = None
    """Samples that it leaves out as the plan is made are not trained on."""
    specialists: list[tuple[str, Layer, Verdicts | None]] = field(default_factory=list)
    """Skill and layer of each specialist whose captions become question–answer turns; for pairs."""
    apart: bool = False
    """Every question of a conversation with its answer is an item of its own; for chat. Of specialists' answers,
    skills.turns decides."""
    alt_text: bool = True
    """False: layers and specialists alone are trained on; for pairs."""


def rehearsed(sources: list[TrainingSource], asked: TrainingSource, share: float, apart: bool) -> list[TrainingSource]:
    """Sources of a finetuning, and beside them what specialists answered of `asked`, a corpus of pairs, without its alt
    text and captions: the turns of a `share` of its samples, drawn anew for each epoch. `apart` takes the others'
    conversations apart, so that the first question of an image may be any of them, as it is for the specialists'.
    """
    own = [replace(source, apart=apart and source.kind == "chat") for source in sources]
    return [*own, replace(asked, layers=[], share=Share(share), alt_text=False)]


@dataclass
class TrainingJob:
    """One stage of one model: what to train, on what, and where everything lies. Picklable."""

    model_name: str
    stage: TrainingStage
    init_folder: Store | str | Path
    """Hugging Face folder that training starts from; every worker must see it."""
    corpus: Corpus
    layers: list[tuple[Layer, Verdicts | None]]
    """Caption layers with what is thought of them, for `pretrain`; the alt text is in the corpus."""
    config: Config
    packs: Store
    """Keeps the pack plan."""
    state: Store
    """Keeps the resumable state, while it is needed."""
    out: Store
    """Becomes the finished Hugging Face folder."""
    metrics: Store | None = None
    """Where the course is logged as it goes; None: nowhere."""
    screening: Screening | None = None
    """Samples that it leaves out as the plan is made are not trained on."""
    kind: SourceKind | None = None
    """Of `corpus`; None: chat for sft, else pairs."""
    share: Share = ALL
    """How much of `corpus` an epoch takes."""
    mixture: tuple[TrainingSource, ...] = ()
    """What is trained on beside `corpus`."""
    specialists: list[tuple[str, Layer, Verdicts | None]] = field(default_factory=list)
    """Skill and layer of each specialist whose captions of `corpus` become question–answer turns."""
    apart: bool = False
    """Every question of a conversation of `corpus` with its answer is an item of its own."""

    @property
    def sources(self) -> list[TrainingSource]:
        """All that the stage mixes."""
        kind = self.kind or ("chat" if self.stage == "sft" else "pairs")
        own = TrainingSource(self.corpus, kind, self.share, self.layers, self.screening, self.specialists, self.apart)
        return [own, *self.mixture]

    @property
    def num_shards(self) -> int:
        """Of all sources."""
        return sum(len(source.corpus.shards) for source in self.sources)

    @property
    def init(self) -> Path:
        """`init_folder` on this node; fetched into its cache where it is a far one."""
        return self.init_folder.local_folder() if isinstance(self.init_folder, Store) else Path(self.init_folder)

    @property
    def settings(self) -> StageConfig:
        return self.config.train.stage(self.stage)

    @property
    def title(self) -> str:
        return f"{self.stage} {self.model_name}"

    def plan_key(self) -> str:
        """Names the plan that this job needs: a plan in `packs` under another name is made anew."""
        config = self.config
        text: list[Any] = [
            PACK.names,
            self.stage,
            config.seed,
            config.train.shuffle_window,
            semantic_fields(self.settings, ""),
        ]
        text += [semantic_fields(config.fuse, ""), config.filters.cut_at_repeated_sentence, config.recaption.prompts]
        for source in self.sources:
            text += [[ref.uri for ref in source.corpus.shards], source.kind, source.share]
            text += [[layer.store.uri, verdicts.store.uri if verdicts else ""] for layer, verdicts in source.layers]
            text += [source.screening.digest() if source.screening is not None else ""]
            text += ["apart"] if source.apart else []
            text += [] if source.alt_text else ["no alt text"]
            if source.specialists:
                text += [config.skills.turns, config.skills.asks_statements]
            for skill, layer, verdicts in source.specialists:
                text += [[skill, layer.store.uri, verdicts.store.uri if verdicts else ""]]
                text += [list(config.skills.questions(skill))]
        return hashlib.sha256(json.dumps(text, sort_keys=True).encode()).hexdigest()

    def work_key(self, plan_digest: str) -> str:
        """Names the work: state and results under another name are not this job's."""
        settings = {k: v for k, v in semantic_fields(self.settings, "").items() if k != "max_length"}
        text = [plan_digest, checkpoint_digest(self.init), settings]
        return hashlib.sha256(json.dumps(text, sort_keys=True).encode()).hexdigest()


@dataclass
class TrainingSummary:
    """What became of a training stage; interruptions leave no trace in it but for `seconds`."""

    num_steps: int
    num_samples: int
    """Training items, repetitions by epochs included."""
    num_tokens: int
    num_supervised: int
    seconds: float
    """Spent on the stage, interrupted attempts up to their last saved step included."""
    first_loss: float | None
    last_loss: float | None
    """None where another trainer told of none."""
    losses: list[tuple[int, float]]
    """(step from 1, mean loss over the step's supervised tokens), at most 500 of them, evenly spaced."""
    digest: str
    """Of the finished folder."""
    real_token_share: float
    """Share of the trained positions that were tokens, not padding."""
    num_masked: int
    """Slots of the first worker whose image could not be decoded, since the last interruption."""
    num_truncated: int
    """Items of the corpus that max_length cut short."""
    num_dropped: int
    """Items that were too long, or had nothing to learn from."""
    by_source: dict[str, dict[str, int]] = field(default_factory=dict)
    """Source → items, tokens, supervised tokens and images that were trained on, repetitions included."""


def thinned(losses: list[float], most: int = 500) -> list[tuple[int, float]]:
    """(step, loss) for at most `most` steps, the first and the last among them; none that was left out."""
    told = [(step + 1, loss) for step, loss in enumerate(losses) if math.isfinite(loss)]
    if len(told) <= most:
        return told
    return [told[round(i * (len(told) - 1) / (most - 1))] for i in range(most)]
