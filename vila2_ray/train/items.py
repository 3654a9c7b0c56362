"""What a sample is trained on: its training items, from the corpus, the layers and the verdicts, side by side.

    pairs      align: the alt text; later stages: alt text fused with the kept captions of the given layers, and with
               what specialists say as turns of question and answer
    chat       the conversation in the sample's JSON, whole or taken apart, loss on the assistant's turns
    documents  texts and images as they alternate, loss on all text
    text       text alone, loss on all of it

Items depend on nothing else, so that (source, shard, row, item) in a pack plan names the same text on every machine.
A layer's file has the shard's rows in the shard's order: both are read together, nothing is joined or shuffled.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from vila2_ray.captions.filters import training_text
from vila2_ray.captions.fuse import IMAGE_PLACE, fuse
from vila2_ray.captions.prompts import Prompts, seed
from vila2_ray.captions.words import has_content
from vila2_ray.config import Config, SourceKind, TrainingStage
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.layers import Layer
from vila2_ray.corpus.samples import Sample
from vila2_ray.corpus.screening import Screening
from vila2_ray.corpus.shards import ShardRef
from vila2_ray.corpus.verdicts import Opinions, Verdicts
from vila2_ray.errors import Reason
from vila2_ray.schema import Status
from vila2_ray.skills.turns import turns
from vila2_ray.train.interleaved import SampleItems, conversation_items, document_items, exchanges, text_items

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
Layers = Sequence[tuple[Layer, Verdicts | None]]
Specialists = Sequence[tuple[str, Layer, Verdicts | None]]
"""Skill, layer and what is thought of it."""

_KEPT_SHARDS = 64
"""Shards whose captions stay in memory: a window of the pack plan goes back and forth between several."""


class Said(NamedTuple):
    """A kept caption."""

    prompt_id: str
    text: str
    variant: int
    skill: str
    """Of the specialist that wrote it; empty for a generalist."""


Captions = tuple[dict[int, list[Said]], set[int]]
"""Row → kept captions in the order of layers and variants; rows whose image some layer found bad."""


@dataclass(frozen=True)
class StageItems:
    """Makes the items that one source gives a stage, shard by shard."""

    corpus: Corpus
    layers: Layers
    config: Config
    stage: TrainingStage
    kind: SourceKind = "pairs"
    screening: Screening | None = None
    """Samples that it leaves out have items all the same; they get into no plan."""
    specialists: Specialists = ()
    apart: bool = False
    """Every question of a conversation with its answer is an item of its own."""
    alt_text: bool = True
    """False: pairs are layers and specialists' turns alone."""
    _kept: OrderedDict[ShardRef, Captions] = field(default_factory=OrderedDict, init=False, repr=False, compare=False)

    def of_shard(self, shard: ShardRef, rows: Sequence[int] | None = None) -> Iterator[SampleItems]:
        """Every sample of the shard (or of its `rows`) that has something to train on, in that order."""
        captions, bad_rows = self._captions(shard)
        for sample in self.corpus.read(shard, rows, images=False):
            if self.kind == "chat":
                made = conversation_items(sample)
                made = exchanges(made) if self.apart else made
            elif self.kind == "documents":
                made = document_items(sample)
            elif self.kind == "text":
                made = text_items(sample)
            elif sample.problem is not None or sample.row in bad_rows:
                continue
            else:
                made = self._pair(sample, captions.get(sample.row, []))
            if made.items:
                yield made

    def _pair(self, sample: Sample, captions: list[Said]) -> SampleItems:
        rules, prompts = self.config.fuse, self._prompts
        brief = prompts.text(rules.brief_prompt_id) if rules.prompted else ""
        rule = "alt_text" if self.stage == "align" else rules.rule
        alt_text = sample.alt_text.replace(IMAGE_PLACE, " ") if self.alt_text else ""
        general = [said for said in captions if not said.skill]
        asked = [(prompts.text(said.prompt_id) if rules.prompted else "", said.text) for said in general]
        told = self._turns(sample, [said for said in captions if said.skill])
        apart = self.config.skills.turns == "apart"
        return SampleItems(sample.row, fuse(alt_text, asked, rule, rules.prompted, brief, told, apart), (0,))

    def _turns(self, sample: Sample, captions: list[Said]) -> list[tuple[str, str]]:
        """Questions with what specialists answer, in an order that the sample decides."""
        skills, found = self.config.skills, []
        for said in captions:
            drawn = random.Random(self._seed(f"turns {said.skill}", sample, said.variant))
            questions = skills.questions(said.skill)
            found += turns(said.skill, said.text, questions, skills.asks_statements, drawn)
        found = [(question, answer) for question, answer in found if has_content(answer)]
        random.Random(self._seed("order of turns", sample)).shuffle(found)
        return found

    def _seed(self, use: str, sample: Sample, variant: int = 0) -> int:
        return seed(f"{self.config.seed}:{use}", sample.sample_id, variant)

    @property
    def _prompts(self) -> Prompts:
        return Prompts((), self.config.recaption.prompts)

    def _captions(self, shard: ShardRef) -> Captions:
        if self.stage == "align" or self.kind != "pairs" or not (self.layers or self.specialists):
            return {}, set()
        if shard not in self._kept:
            self._kept[shard] = self._read_captions(shard)
            while len(self._kept) > _KEPT_SHARDS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(shard)
        return self._kept[shard]

    def _read_captions(self, shard: ShardRef) -> Captions:
        kept: dict[int, list[Said]] = {}
        bad: set[int] = set()
        for skill, layer, verdicts in (*(("", *pair) for pair in self.layers), *self.specialists):
            told = verdicts.opinions(shard.source, shard.shard) if verdicts else Opinions({}, {})
            table = layer.read(shard.source, shard.shard, ["row", "variant", "status", "text", "error", "prompt_id"])
            for row in table.to_pylist():
                key = (row["row"], row["variant"])
                if row["error"] in BAD_IMAGE:
                    bad.add(row["row"])
                elif row["status"] == Status.CAPTIONED.value and key not in told.flags:
                    text = (row["text"] or "").replace(IMAGE_PLACE, " ")
                    text = training_text(text, self.config.filters, told.edits.get(key))
                    kept.setdefault(row["row"], []).append(Said(row["prompt_id"], text, row["variant"], skill))
        return kept, bad
