"""`serving.json`: what an operator wants served under a name, whatever is promoted; written conditionally.

A pin stays until the operator takes it back: no promotion overrides it. What it points at is written out, so that it
means the same checkpoint when the campaign goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from vila2_ray.campaign.plan import model_of
from vila2_ray.campaign.state import Marker
from vila2_ray.config import SkillName
from vila2_ray.errors import ConditionFailed, ConfigError
from vila2_ray.storage import Store

NAME = "serving.json"
PROMOTED = "promoted"
"""The served name that follows the campaign's promotion."""

Action = Literal["pin", "rollback", "unpin"]


@dataclass(frozen=True)
class Target:
    """A checkpoint of the campaign."""

    model: str
    checkpoint: str
    """Its folder, relative to the campaign's."""
    digest: str
    skill: str = ""
    """Of a specialist."""

    @property
    def label(self) -> str:
        """For people: `vlm-1@0123456789ab`."""
        return f"{self.model}@{self.digest[:12]}"


@dataclass(frozen=True)
class Word:
    """What an operator said about a served name."""

    name: str
    action: Action
    target: Target | None
    """What is to be served; None for unpin."""
    by: str
    why: str = ""
    at: float = field(default_factory=time.time)
    """Unix time."""


@dataclass(frozen=True)
class Serving:
    """All that operators have said, oldest first."""

    words: tuple[Word, ...] = ()

    def word_on(self, name: str) -> Word | None:
        """The last one about a name: the one that counts."""
        return next((word for word in reversed(self.words) if word.name == name), None)

    def pin_of(self, name: str) -> Word | None:
        """The pin or rollback that holds; None where promotion is followed."""
        word = self.word_on(name)
        return word if word is not None and word.target is not None else None


def trained(marker: Marker) -> Target:
    """The checkpoint that a finished `sft-…` stage made."""
    about = marker.stage.partition("-")[2]
    model = model_of(about)
    return Target(model, f"checkpoints/{model}/sft", marker.digest, about if about in get_args(SkillName) else "")


def entry_target(entry: Mapping[str, Any]) -> Target:
    """Of an entry of promoted.json."""
    return Target(entry["model"], entry["checkpoint"], entry["digest"])


def find_target(wanted: str, promoted: Mapping[str, Any], markers: Mapping[str, Marker]) -> Target:
    """What `vlm-1`, `vlm-1@0123ab` or `@0123ab` names: what is trained now first, then the newest promoted entry.

    Raises ConfigError where it is no checkpoint of the campaign, or a digest's beginning that two of them have.
    """
    model, _, digest = wanted.partition("@")
    now = [trained(marker) for name, marker in markers.items() if name.startswith("sft-")]
    known = [*now, *(entry_target(entry) for entry in reversed(promoted["history"]))]
    fits = [target for target in known if target.model == model or not model]
    fits = [target for target in fits if target.digest.startswith(digest)]
    if not fits:
        names = ", ".join(dict.fromkeys(target.label for target in known)) or "none: nothing is trained yet"
        raise ConfigError("model", wanted, f"no checkpoint of this campaign; it has {names}")
    if digest and len({target.digest for target in fits}) > 1:
        raise ConfigError("model", wanted, f"more than one: {', '.join(dict.fromkeys(t.label for t in fits))}")
    return fits[0]


def entry_before(current: Target | None, promoted: Mapping[str, Any]) -> Target:
    """The promoted entry before `current`: what a rollback goes to. Raises ConfigError where there is none."""
    entries = [entry_target(entry) for entry in promoted["history"]]
    places = [i for i, target in enumerate(entries) if current is not None and target.label == current.label]
    earlier = [target for target in entries[: places[-1] if places else 0] if target != current]
    if not earlier:
        raise ConfigError("--rollback", current.label if current else "", "nothing was promoted before; pin a model")
    return earlier[-1]


def read_serving(store: Store) -> Serving:
    found = store.read_versioned(NAME)
    return _loads(found[0]) if found else Serving()


def say(store: Store, word: Word) -> None:
    """Put an operator's word down, after all others."""
    while True:
        found = store.read_versioned(NAME)
        serving = _loads(found[0]) if found else Serving()
        try:
            store.put_if(NAME, _dumps(Serving((*serving.words, word))), found[1] if found else None)
            return
        except ConditionFailed:  # another operator's word came first
            continue


def _dumps(serving: Serving) -> bytes:
    return json.dumps({"words": [asdict(word) for word in serving.words]}, indent=1).encode()


def _loads(data: bytes) -> Serving:
    words = []
    for entry in json.loads(data)["words"]:
        target = entry.pop("target")
        words.append(Word(target=Target(**target) if target else None, **entry))
    return Serving(tuple(words))
