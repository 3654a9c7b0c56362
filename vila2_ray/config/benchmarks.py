"""A published benchmark, as it lies on somebody's disk or bucket, or a scorer of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vila2_ray.config.fields import check_share, operational
from vila2_ray.errors import ConfigError

BenchmarkKind = Literal[
    "vqav2",
    "gqa",
    "textvqa",
    "vizwiz",
    "scienceqa",
    "pope",
    "mme",
    "mmbench",
    "seed",
    "mmmu",
    "mmvet",
    "coco",
    "chair",
    "own",
    "command",
]


@dataclass(frozen=True)
class BenchmarkConfig:
    """One benchmark. Its files are read in the form in which they are published (`vila2_ray/evaluate/published/`)."""

    kind: BenchmarkKind = "own"
    """own: questions of yours, as JSON Lines. command: a scorer of yours that asks the model itself."""
    path: str = operational("")
    """Folder of its files, local or s3://."""
    images: str = operational("")
    """Folder of its pictures. Empty: where its publishers put them, below `path`."""
    annotations: tuple[str, ...] = operational(())
    """Names of its files in `path`. Empty: as they are published."""
    split: str = ""
    """Which part, in the benchmark's own words, for example val. Empty: the one that is published with answers."""
    instruction: str = ""
    """Follows the question. Empty: as the benchmark's papers ask."""
    max_tokens: int = 0
    """Of an answer. 0: what the benchmark needs."""
    max_items: int = 0
    """So many questions, at even distances, questions about one image kept together. 0: all."""
    max_missing_share: float = operational(0.01)
    """Where more of its pictures cannot be had, it is refused; fewer are left out and counted."""
    command: tuple[str, ...] = ()
    """Of mmvet and own, the judge: reads {"question", "truth", "answer"} as JSON, writes a number from 0 to 1; mmvet
    without one goes by `judge.endpoint`. Of command: writes {"scores": {name: number}} as JSON to the file {out};
    {checkpoint} is the folder, {data} `path`."""
    timeout_seconds: float = operational(3600.0)
    """Of the scorer's command, or of one answer's judge."""

    def check(self, where: str) -> None:
        """Raises ConfigError for what cannot work; `where` names this benchmark."""
        check_share(where, self, "max_missing_share")
        for name in ("max_tokens", "max_items"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{where}.{name}", getattr(self, name), "must not be negative")
        if self.timeout_seconds <= 0:
            raise ConfigError(f"{where}.timeout_seconds", self.timeout_seconds, "must be greater than 0")
        if self.kind == "command" and not self.command:
            raise ConfigError(f"{where}.command", self.command, "name your scorer, word by word: [python, mine.py]")
        if self.kind != "command" and not self.path:
            raise ConfigError(f"{where}.path", self.path, f"name the folder in which {self.kind} lies")
        if self.kind not in ("mmvet", "own", "command") and self.command:
            raise ConfigError(
                f"{where}.command", self.command, f"{self.kind} has rules of its own and takes no command"
            )

    def check_judge(self, where: str, has_endpoint: bool) -> None:
        """Raises ConfigError where open answers have nobody who scores them."""
        if self.kind == "mmvet" and not self.command and not has_endpoint:
            remedy = (
                "name the judge that scores open answers, word by word: [python, mine.py]; or a model, judge.endpoint"
            )
            raise ConfigError(f"{where}.command", self.command, remedy)
