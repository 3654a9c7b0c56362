"""What leaves a campaign for other people, and what must not. Operational: no caption or model depends on it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from vila2_ray.config.fields import check_positive, check_share, operational
from vila2_ray.errors import ConfigError

Action = Literal["refuse", "leave_out", "warn"]
"""`refuse`: nothing is exported while there is such a sample. `leave_out`: it is not exported. `warn`: it is, and the
card says how many there are."""
Finds = Literal["nsfw", "people"]


@dataclass(frozen=True)
class PolicyConfig:
    """What is done about samples that perhaps should not be published."""

    licences: tuple[str, ...] = operational(())
    """Those that are allowed, as `corpus.columns.license` has them; letter case is ignored, `*` stands for anything.
    Empty: any that is stated."""
    other_licence: Action = operational("leave_out")
    """A stated licence that is not among `licences`."""
    unknown_licence: Action = operational("warn")
    """No licence is stated, or one called unknown."""
    nsfw: Action = operational("leave_out")
    """A hook says so, or was asked and could not tell."""
    people: Action = operational("warn")
    """People or personal data; as for nsfw."""
    near_duplicates: Action = operational("leave_out")
    """An image of `export.evaluation_hashes`, or one that looks like it."""


@dataclass(frozen=True)
class HookConfig:
    """Something that looks at samples and says how sure it is that they are nsfw, or hold people or personal data: a
    transformers checkpoint or a command.
    """

    finds: Finds = operational("nsfw")
    reads: Literal["images", "texts"] = operational("images")
    """`texts`: the alt text and every caption of the layers that are exported."""
    checkpoint: str = operational("")
    """Folder of an image classifier, or of a text classifier where texts are read; safetensors, no code of its own."""
    labels: tuple[str, ...] = operational(())
    """Labels of the checkpoint that speak against a sample; their probabilities are added."""
    command: tuple[str, ...] = operational(())
    """Started once per shard, `{input}` and `{output}` replaced by paths (appended where no word holds them). Input:
    Parquet with `id` and `image` (encoded bytes) or `text`. Output: JSON Lines or Parquet with `id`, `score` (0 to 1)
    and, if you like, `label`; the highest score of an id counts. Other words, or other content of a
    file that they name, are another hook, which looks anew."""
    min_score: float = operational(0.5)
    """From where on it speaks against a sample; may be changed without looking again."""
    batch_size: int = operational(16)
    """Images or texts that go through a checkpoint at once."""

    def check(self, where: str) -> None:
        """Raises ConfigError for what cannot work; `where` is its dotted name."""
        check_share(where, self, "min_score")
        check_positive(where, self, "batch_size")
        if bool(self.checkpoint) == bool(self.command):
            raise ConfigError(f"{where}.checkpoint", self.checkpoint, "name a checkpoint or a command, one of them")
        if self.checkpoint and not self.labels:
            raise ConfigError(
                f"{where}.labels", self.labels, "name the checkpoint's labels that speak against a sample"
            )


@dataclass(frozen=True)
class AboutConfig:
    """What the publisher says of the data set; into the card and croissant.json."""

    title: str = operational("")
    description: str = operational("")
    creator: str = operational("")
    licence: str = operational("")
    """Of the data set as a whole, a URL if there is one. Empty: the licences of its samples."""
    url: str = operational("")
    """Where it is published."""
    version: str = operational("1.0.0")
    published: str = operational("")
    """YYYY-MM-DD."""

    def __post_init__(self) -> None:
        if self.published and not re.fullmatch(r"\d{4}-\d\d-\d\d", self.published):
            raise ConfigError("export.about.published", self.published, "write it as YYYY-MM-DD")
        if not re.fullmatch(r"\d+\.\d+\.\d+", self.version):
            raise ConfigError("export.about.version", self.version, "write it as MAJOR.MINOR.PATCH")


@dataclass(frozen=True)
class ExportConfig:
    """What the last stage writes for other tools."""

    format: Literal["webdataset", "parquet", "captions"] = "captions"
    to: str = operational("")
    """Folder; empty: `<campaign>/export/<format>`."""
    policy: PolicyConfig = operational(factory=PolicyConfig)
    hooks: dict[str, HookConfig] = field(default_factory=dict, metadata={"operational": True})
    """By a name of your choice; what they say lies under `verdicts/release-<name>/`."""
    evaluation_hashes: tuple[str, ...] = operational(())
    """Files of hashes of evaluation images, as `vila2 hash` writes them; compared within screen.near_distance."""
    language: str = operational("language")
    """Extra column that the card counts languages by."""
    about: AboutConfig = operational(factory=AboutConfig)

    def __post_init__(self) -> None:
        for name, hook in self.hooks.items():
            where = f"export.hooks.{name}"
            if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name) or name == "evaluation":
                raise ConfigError(where, name, "a name has small letters, digits, - and _, and is not evaluation")
            hook.check(where)
        found = {hook.finds for hook in self.hooks.values()}
        for name in ("nsfw", "people"):
            if getattr(self.policy, name) == "refuse" and name not in found:
                remedy = f"needs something that looks for it: name export.hooks.<name> with finds={name}"
                raise ConfigError(f"export.policy.{name}", "refuse", remedy)
        if self.policy.near_duplicates == "refuse" and not self.evaluation_hashes:
            remedy = "needs images to compare with: name export.evaluation_hashes"
            raise ConfigError("export.policy.near_duplicates", "refuse", remedy)
