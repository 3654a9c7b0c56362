"""What can be configured: dataclasses, each field with its meaning and default; `recipe` fills them in.

Every field is *semantic* (it decides what is made, and enters the fingerprints of the stages that read it) or
*operational* (it decides how fast, where or at what price; changing it invalidates nothing). Fields are semantic unless
declared otherwise.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal, get_args

from vila2_ray.config.benchmarks import BenchmarkConfig, BenchmarkKind
from vila2_ray.config.campaign import (
    EvaluateConfig,
    PlanningConfig,
    PricesConfig,
    RatesConfig,
    RoundsConfig,
)
from vila2_ray.config.captions import (
    DriftConfig,
    EngineConfig,
    EngineName,
    FallbackConfig,
    FiltersConfig,
    FuseConfig,
    PickConfig,
    PickRule,
    Raters,
    RecaptionConfig,
    Rule,
    SamplingConfig,
)
from vila2_ray.config.corpus import ColumnsConfig, CorpusConfig, ScreenConfig, SourceConfig, SourceKind, TrainingStage
from vila2_ray.config.export import AboutConfig, Action, ExportConfig, Finds, HookConfig, PolicyConfig
from vila2_ray.config.fields import operational, semantic_fields
from vila2_ray.config.judge import JudgeConfig
from vila2_ray.config.serving import ServeConfig
from vila2_ray.config.skills import SkillConfig, SkillName, SkillsConfig
from vila2_ray.config.training import BaseConfig, Part, StageConfig, Tracker, TrainConfig
from vila2_ray.errors import ConfigError
from vila2_ray.skills.family import PROMPTS

__all__ = [
    "AboutConfig",
    "Action",
    "BaseConfig",
    "BenchmarkConfig",
    "BenchmarkKind",
    "ColumnsConfig",
    "Config",
    "CorpusConfig",
    "DriftConfig",
    "EngineConfig",
    "EngineName",
    "EvaluateConfig",
    "ExportConfig",
    "FallbackConfig",
    "FiltersConfig",
    "Finds",
    "FuseConfig",
    "HookConfig",
    "JudgeConfig",
    "Part",
    "PickConfig",
    "PickRule",
    "PlanningConfig",
    "PolicyConfig",
    "PricesConfig",
    "Raters",
    "RatesConfig",
    "RecaptionConfig",
    "RoundsConfig",
    "Rule",
    "SamplingConfig",
    "ScreenConfig",
    "ServeConfig",
    "SkillConfig",
    "SkillName",
    "SkillsConfig",
    "SourceConfig",
    "SourceKind",
    "StageConfig",
    "Tracker",
    "TrainConfig",
    "TrainingStage",
    "operational",
    "semantic_fields",
]


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
    specialists: tuple[SkillName, ...] = operational(())
    """Skills for which a specialist is trained after the rounds, recaptions the corpus and teaches the final model.
    None: the campaign ends with the best round."""
    skills: SkillsConfig = field(default_factory=SkillsConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    promote: Literal["auto", "ask"] = operational("auto")
    """ask: the campaign ends before it promotes anything, until somebody says `vila2 promote`."""
    export: ExportConfig = field(default_factory=ExportConfig)
    rates: RatesConfig = operational(factory=RatesConfig)
    planning: PlanningConfig = operational(factory=PlanningConfig)
    prices: PricesConfig = operational(factory=PricesConfig)
    cluster: str = operational("")
    """The file of the cluster that it runs on (cluster launcher, KubeRay): plan and ledger learn of its machines."""
    budget: float = operational(0.0)
    """Dollars, by the ledger, all attempts together; a campaign stops before it spends more. 0: no bound."""
    budget_reserve_seconds: float = operational(120.0)
    """What all nodes cost in so many seconds is kept back of the budget, to stop and save in."""
    serve: ServeConfig = operational(factory=ServeConfig)
    judge: JudgeConfig = operational(factory=JudgeConfig)
    """A model that judges captions in pairs and benchmarks' open answers."""

    def __post_init__(self) -> None:
        for name in ("budget", "budget_reserve_seconds"):
            if getattr(self, name) < 0:
                raise ConfigError(name, getattr(self, name), "must not be negative; budget=0 is no bound")
        if unknown := set(self.specialists) - set(get_args(SkillName)):
            raise ConfigError("specialists", sorted(unknown), f"name some of {', '.join(get_args(SkillName))}, or none")
        if len(set(self.specialists)) < len(self.specialists):
            raise ConfigError("specialists", self.specialists, "names a skill twice; each has one specialist")
        benchmark, dot, _ = self.rounds.metric.partition(".")
        if dot and benchmark not in self.evaluate.benchmarks:
            known = ", ".join(self.evaluate.benchmarks) or "none yet"
            remedy = f"no such benchmark; those under evaluate.benchmarks are {known}"
            raise ConfigError("rounds.metric", self.rounds.metric, remedy)
        for name, each in self.evaluate.benchmarks.items():
            each.check_judge(f"evaluate.benchmarks.{name}", bool(self.judge.endpoint))
        for skill in self.specialists:
            self._check_skill(skill)
        if self.specialists and self.skills.rehearsal and "pretrain" in self.corpus.sources_of("sft"):
            remedy = "must be 0 where sft trains on corpus.pretrain already, by corpus.sources.pretrain.stages"
            raise ConfigError("skills.rehearsal", self.skills.rehearsal, remedy)
        for layer, retried in self.layers.items():
            if not re.fullmatch(re.escape(layer) + r"-retry-[1-9]\d*", retried):
                raise ConfigError(f"layers.{layer}", retried, f"name a layer that retried it, {layer}-retry-1 for one")
        if self.pick.by == "agreement" and self.pick.layers == "latest" and self.recaption.num_variants == 1:
            remedy = "one caption per sample has nothing to agree with: raise recaption.num_variants or pick.layers=all"
            raise ConfigError("pick.by", self.pick.by, remedy)

    def corpus_uri(self, name: str) -> str:
        """Where a corpus lies: one of `corpus`, or a specialist's (`ocr.images`, `ocr.data`); "" where it is not."""
        skill, dot, part = name.partition(".")
        return getattr(self.skills.of(skill), part) if dot else self.corpus.uri(name)

    def corpus_source(self, name: str) -> SourceConfig:
        """What a corpus holds and how much of it is used."""
        if name == "heldout" or name.endswith(".images"):
            return SourceConfig()
        return SourceConfig(kind="chat", stages=("sft",)) if name.endswith(".data") else self.corpus.source(name)

    def corpora_of(self, skill: str) -> tuple[str, ...]:
        """Names of the corpora that a specialist has of its own: what `corpus_uri` takes. Data needs no images."""
        return tuple(name for name in (f"{skill}.data", f"{skill}.images") if self.corpus_uri(name))[:1]

    def _check_skill(self, skill: str) -> None:
        settings, where = self.skills.of(skill), f"skills.{skill}"
        if skill != "ocr" and not (settings.data or settings.annotations or settings.detector):
            remedy = f"say what it learns from: {where}.annotations, {where}.detector or finished {where}.data"
            raise ConfigError(f"{where}.annotations", settings.annotations, remedy)
        texts = {**PROMPTS[skill], **self.recaption.prompts}
        asked = set()
        for prompt_id in self.skills.prompt_ids(skill):
            if prompt_id not in texts:
                remedy = f"define it in recaption.prompts, or take some of {', '.join(PROMPTS[skill])}"
                raise ConfigError(f"{where}.prompt_ids", prompt_id, remedy)
            asked.add(_normal(texts[prompt_id]))
        for question in self.skills.questions(skill):
            if _normal(question) in asked or not _normal(question):
                remedy = (
                    "must be another list than the captioning prompts, and say something: the final training asks it"
                )
                raise ConfigError(f"{where}.questions", question, remedy)


def _normal(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".?!: ")
