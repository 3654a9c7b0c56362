"""What a sample is trained on: its training items, from the corpus, the layers and the verdicts, side by side.

    align     the alt text
    pretrain  alt text fused with the kept captions of the given layers
    sft       the conversation in the sample's JSON, loss on the assistant's turns

Items depend on nothing else, so that (source, shard, row, item) in a pack plan names the same text on every machine.
A layer's file has the shard's rows in the shard's order: both are read together, nothing is joined or shuffled.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vila2_ray.captions.fuse import Item, Turn, cut_at_repeated_sentence, fuse
from vila2_ray.captions.prompts import Prompts
from vila2_ray.config import Config, TrainingStage
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.layers import Layer
from vila2_ray.corpus.samples import Sample
from vila2_ray.corpus.shards import ShardRef
from vila2_ray.corpus.verdicts import Verdicts
from vila2_ray.errors import Reason
from vila2_ray.schema import Status

BAD_IMAGE = frozenset(
    r.value
    for r in (
        Reason.NO_IMAGE,
        Reason.IMAGE_UNREADABLE,
        Reason.IMAGE_TOO_LARGE,
        Reason.IMAGE_TYPE,
        Reason.SHARD_TRUNCATED,
    )
)
"""Reasons that leave a sample out of training altogether; any other failed row still trains on its alt text."""
IMAGE_MARK = "<image>"
"""Where LLaVA's conversations say that the image stands."""
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}

Layers = Sequence[tuple[Layer, Verdicts | None]]


@dataclass(frozen=True)
class SampleItems:
    """The items of one sample; `has_image` is false for a conversation without one."""

    row: int
    items: list[Item]
    has_image: bool = True


@dataclass(frozen=True)
class StageItems:
    """Makes the items of a stage, shard by shard."""

    corpus: Corpus
    layers: Layers
    config: Config
    stage: TrainingStage

    def of_shard(self, shard: ShardRef) -> Iterator[SampleItems]:
        """Every sample of the shard that has something to train on, in shard order."""
        captions, bad_rows = self._captions(shard)
        for sample in self.corpus.read(shard, images=False):
            if self.stage == "sft":
                made = conversation_items(sample)
            elif sample.problem is not None or sample.row in bad_rows:
                continue
            else:
                made = SampleItems(sample.row, self._fused(sample.alt_text, captions.get(sample.row, [])))
            if made.items:
                yield made

    def _fused(self, alt_text: str, captions: list[tuple[str, str]]) -> list[Item]:
        rules = self.config.fuse
        brief = self._prompts.text(rules.brief_prompt_id) if rules.prompted else ""
        rule = "alt_text" if self.stage == "align" else rules.rule
        return fuse(alt_text, captions, rule, rules.prompted, brief)

    @property
    def _prompts(self) -> Prompts:
        return Prompts((), self.config.recaption.prompts)

    def _captions(self, shard: ShardRef) -> tuple[dict[int, list[tuple[str, str]]], set[int]]:
        """Row → kept (prompt, caption) pairs in the order of layers and variants; rows whose image some layer found
        bad.
        """
        kept: dict[int, list[tuple[str, str]]] = {}
        bad: set[int] = set()
        if self.stage != "pretrain":
            return kept, bad
        prompts = self._prompts
        for layer, verdicts in self.layers:
            flags = verdicts.flags(shard.source, shard.shard) if verdicts else {}
            table = layer.read(shard.source, shard.shard, ["row", "variant", "status", "text", "error", "prompt_id"])
            for row in table.to_pylist():
                if row["error"] in BAD_IMAGE:
                    bad.add(row["row"])
                elif row["status"] == Status.CAPTIONED.value and (row["row"], row["variant"]) not in flags:
                    text = row["text"] or ""
                    if self.config.filters.cut_at_repeated_sentence:
                        text = cut_at_repeated_sentence(text)
                    prompt = prompts.text(row["prompt_id"]) if self.config.fuse.prompted else ""
                    kept.setdefault(row["row"], []).append((prompt, text))
        return kept, bad


def conversation_items(sample: Sample) -> SampleItems:
    """LLaVA's `conversations` as one item of several turns. No items when there is no usable exchange in them.

    A conversation that marks no image is one of text alone; one that marks an image which is missing is left out.
    """
    turns = [turn for entry in _entries(sample.extra.get("conversations")) if (turn := _turn(entry)) is not None]
    while turns and turns[0].role == "assistant":
        turns.pop(0)  # an answer to nothing
    while turns and turns[-1].role == "user":
        turns.pop()
    alternates = all(a.role != b.role for a, b in itertools.pairwise(turns))
    wants_image = any(IMAGE_MARK in turn.text for turn in turns)
    if not turns or not alternates or (wants_image and sample.problem is not None):
        return SampleItems(sample.row, [])
    if sample.problem is not None and sample.problem.reason is not Reason.NO_IMAGE:
        return SampleItems(sample.row, [])
    clean = tuple(Turn(turn.role, turn.text.replace(IMAGE_MARK, "").strip()) for turn in turns)
    return SampleItems(sample.row, [clean], has_image=sample.problem is None)


def _entries(conversations: Any) -> list[Any]:
    return conversations if isinstance(conversations, list) else []


def _turn(entry: Any) -> Turn | None:
    if not isinstance(entry, dict):
        return None
    role, text = _ROLES.get(str(entry.get("from", entry.get("role")))), entry.get("value", entry.get("content"))
    if role is None or not isinstance(text, str) or not text.strip():
        return None
    return Turn("user" if role == "user" else "assistant", text)
