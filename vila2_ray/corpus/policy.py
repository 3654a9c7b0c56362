"""What speaks against publishing a sample, and what is done about it: licences, hooks, images that others score with.

The rules are configuration (`export.policy`), what they go by lies in verdict files; nothing is decided here for good.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from vila2_ray.config import Action, PolicyConfig
from vila2_ray.corpus.hookverdicts import Judged
from vila2_ray.corpus.screening import ImageVerdicts
from vila2_ray.corpus.shardfiles import ShardFiles
from vila2_ray.corpus.shards import ShardRef
from vila2_ray.errors import ConfigError
from vila2_ray.screening.rules import Flag

EVALUATION = "evaluation image"
NO_LICENCE = "no licence stated"
OTHER_LICENCE = "licence not allowed"
_UNKNOWN = {"", "unknown", "none", "null", "n/a", "nan", "not stated", "?"}


class Finding(NamedTuple):
    """One thing that speaks against a sample."""

    rule: str
    field: str
    """Of `export.policy`."""
    action: Action


@dataclass(frozen=True)
class Policy:
    """The rules with all that they go by. Picklable; reads a shard's verdicts when asked for it."""

    config: PolicyConfig = field(default_factory=PolicyConfig)
    hooks: tuple[Judged, ...] = ()
    evaluation: ImageVerdicts | None = None
    """Samples compared with evaluation images; None: with none."""

    def against(self, ref: ShardRef) -> dict[int, list[Finding]]:
        """Row → what its verdicts say against it, each thing once. Raises CorpusError for a shard without verdicts."""
        found: dict[int, dict[str, Finding]] = {}
        for hook in self.hooks:
            action: Action = getattr(self.config, hook.finds)
            for row, rule in hook.against(ref.source, ref.shard).items():
                found.setdefault(row, {})[rule] = Finding(rule, hook.finds, action)
        if self.evaluation is not None:
            for row, flags in self.evaluation.flags(ref.source, ref.shard).items():
                if Flag.HELDOUT.value in flags:
                    alike = Finding(EVALUATION, "near_duplicates", self.config.near_duplicates)
                    found.setdefault(row, {})[EVALUATION] = alike
        return {row: list(findings.values()) for row, findings in found.items()}

    def of_licence(self, licence: object) -> list[Finding]:
        """What a sample's licence says against it."""
        if (stated := _plain(licence)) in _UNKNOWN:
            return [Finding(NO_LICENCE, "unknown_licence", self.config.unknown_licence)]
        allowed = self.config.licences
        if allowed and not any(fnmatch.fnmatchcase(stated, _plain(entry)) for entry in allowed):
            return [Finding(OTHER_LICENCE, "other_licence", self.config.other_licence)]
        return []

    @property
    def can_refuse(self) -> bool:
        return "refuse" in asdict(self.config).values()

    @property
    def unchecked(self) -> tuple[str, ...]:
        """What nothing has looked for."""
        looked = {hook.finds for hook in self.hooks}
        missing = [name for name in ("nsfw", "people") if name not in looked]
        return (*missing, *([] if self.evaluation is not None else ["evaluation images"]))

    def settings(self) -> dict[str, Any]:
        """What decides, so that an export is not gone on with under other rules. Evaluation images are not in it."""
        hooks = [[hook.name, hook.finds, _folder(hook.verdicts), hook.min_score] for hook in self.hooks]
        return {"rules": asdict(self.config), "hooks": hooks}

    def evaluation_digest(self) -> str:
        """Changes with the list of evaluation images; "" without one."""
        return _folder(self.evaluation) if self.evaluation is not None else ""


def refuse(refused: Mapping[tuple[str, str], tuple[int, list[str]]]) -> None:
    """Raise ConfigError for the first of `refused`: (rule, field of the policy) → samples, and the first of them."""
    for (rule, name), (count, examples) in sorted(refused.items()):
        others = sum(n for key, (n, _) in refused.items() if key != (rule, name))
        more = f" ({others:,} more for other reasons)" if others else ""
        said = f"{count:,} sample{'s' * (count != 1)} with: {rule}, for example {', '.join(examples)}{more}"
        remedy = f"take them down (screen.takedown) or say export.policy.{name}=leave_out"
        raise ConfigError(f"export.policy.{name}", "refuse", f"{said}; {remedy}")


def _folder(verdicts: ShardFiles) -> str:
    """The fingerprint in their path."""
    return verdicts.store.uri.rstrip("/").rsplit("/", 1)[-1]


def _plain(text: object) -> str:
    return " ".join(str(text if text is not None else "").casefold().split())
