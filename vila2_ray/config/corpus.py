"""Where shards lie, what is read of them, and which samples are left out beforehand."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Literal, get_args

from vila2_ray.config.fields import check_positive, check_share, operational
from vila2_ray.errors import ConfigError

TrainingStage = Literal["align", "pretrain", "sft"]
SourceKind = Literal["pairs", "documents", "text", "chat"]


_OWN: dict[str, SourceKind] = {"pretrain": "pairs", "sft": "chat"}
"""The sources that have a field of their own, and their kinds."""


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
        check_positive("corpus.sources.<name>", self, "weight", "repeat")
        check_share("corpus.sources.<name>", self, "weight")
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
        check_positive("corpus", self, "max_pixels")
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
