"""What a captioner is asked, and the hashes by which a sample gets its prompt, its seed and its place in a share.

The family follows VILA² (arXiv 2407.17453): brief; detailed; detailed with narrative elements; only what can be
determined with confidence, no lists, little aesthetics. The wording is this project's own. Every draw is a sha256
of the plan and the sample, so that it is the same on every retry, machine and Python version.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from vila2_ray.errors import ConfigError
from vila2_ray.skills.family import PROMPTS

FAMILY: dict[str, str] = {
    "brief": "Say in one short sentence what this picture shows.",
    "detailed": "Describe this picture in detail: everything that is in it, how each thing looks and where it is.",
    "narrative": (
        "Describe this picture in detail and tell it as a story would: who or what is there, what is going on, "
        "and how the things in it have to do with each other."
    ),
    "confident": (
        "Describe in whole sentences what can be made out in this picture without doubt. Leave out what would have to "
        "be guessed, make no lists, and say little about how beautiful it is."
    ),
}
"""Prompt id → text."""
_SKILLS = {prompt_id: text for family in PROMPTS.values() for prompt_id, text in family.items()}


class Prompts:
    """The built-in families, those of the skills included, with a configuration's own texts added over them.

    `ids` are the prompts that will be asked for: ConfigError when one of them, or its text, does not exist.
    """

    def __init__(self, ids: Sequence[str] = (), custom: Mapping[str, str] | None = None) -> None:
        self.texts: dict[str, str] = {**FAMILY, **_SKILLS, **(custom or {})}
        self.ids = tuple(ids)
        for prompt_id, text in self.texts.items():
            if not text.strip():
                raise ConfigError(f"recaption.prompts.{prompt_id}", text, "give the prompt a text")
        for prompt_id in self.ids:
            self.text(prompt_id)

    def text(self, prompt_id: str) -> str:
        """The user's turn. Raises ConfigError for an id that nobody defined."""
        if prompt_id not in self.texts:
            remedy = f"no such prompt: take one of {', '.join(self.texts)}, or define it in recaption.prompts"
            raise ConfigError("prompt id", prompt_id, remedy)
        return self.texts[prompt_id]

    def draw(self, ids: Sequence[str], plan_key: str, sample_id: str, variant: int = 0) -> str:
        """One of `ids` (all of this object's when empty); see the function of the same name."""
        return draw(ids or self.ids, plan_key, sample_id, variant)


def draw(ids: Sequence[str], plan_key: str, sample_id: str, variant: int = 0) -> str:
    """A prompt id for this caption, each equally likely.

    Variants of a sample go on from a drawn start through `ids`, so that they differ as long as there are prompts left.
    """
    if not ids:
        raise ConfigError("recaption.prompt_ids", tuple(ids), "name at least one prompt")
    return ids[(_hash("prompt", plan_key, sample_id, 0) + variant) % len(ids)]


def selected(plan_key: str, sample_id: str, fraction: float) -> bool:
    """Whether the sample is in this share of the corpus. A larger fraction holds every sample of a smaller one."""
    return _hash("select", plan_key, sample_id, 0) < fraction * 2**64


def seed(plan_key: str, sample_id: str, variant: int = 0) -> int:
    """Seed of a caption's random stream, in [0, 2³¹): every generator there is takes it."""
    return _hash("seed", plan_key, sample_id, variant) >> 33


def _hash(use: str, plan_key: str, sample_id: str, variant: int) -> int:
    """64 bits. JSON keeps apart what joining would mix, and takes any string that a key can be."""
    message = json.dumps([use, plan_key, sample_id, variant], ensure_ascii=True, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(message.encode("ascii")).digest()[:8], "big")
