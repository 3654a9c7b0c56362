"""The filter stage: opinions on finished layers, written beside them shard by shard.

A shard is judged whole, by one task and in bounded memory: people's edits take their captions' place, the filters flag
what would be trained on, votes and `pick` choose among what is kept, and the newest layer's figures, as the model wrote
it, go into a sketch of drift. Counts and sketch stand in the metadata of that layer's verdict file, which is written
last: where it is, nothing of the shard is looked at again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa

from vila2_ray.campaign.picking import Picking
from vila2_ray.campaign.skillcheck import SkillCheck
from vila2_ray.captions.drift import Sketch, Watched, sketch
from vila2_ray.captions.filters import judge, layer_threshold, training_text
from vila2_ray.captions.prompts import Prompts
from vila2_ray.captions.votes import ALT_TEXT, Place, ShardVotes, Votes
from vila2_ray.config import FiltersConfig, PickConfig
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.layers import Layer
from vila2_ray.corpus.shards import Map, ShardRef
from vila2_ray.corpus.verdicts import Verdicts
from vila2_ray.schema import VERDICT, Status

_Row = dict[str, Any]
_COUNTS, _DRIFT = "counts", "drift"
_SHARDS_AT_ONCE = 16


@dataclass(frozen=True)
class FilterJob:
    """What a filter stage reads, thinks and writes. Picklable."""

    corpus: Corpus
    layers: Sequence[tuple[Layer, Verdicts]]
    """To be judged, oldest first, with where to; the last is the one that drift is watched in."""
    prompts: Prompts
    filters: FiltersConfig
    pick: PickConfig
    previous: Layer | None = None
    """The round before the last layer's; its captions are compared with."""
    check: SkillCheck | None = None
    """What a specialist's captions are held against, beside the filters."""
    votes: Votes | None = None
    """What raters say of these layers."""


@dataclass(frozen=True)
class Filtered:
    """Over all shards."""

    flags: dict[str, int]
    """Captions by flag; `captions` (all) and `kept` counted over all judged layers. With `pick`, `samples` that have a
    caption to pick and `alt_text` that stays with none of them picked; `voted`: samples that votes decide. `edited`
    captions, where there are any."""
    drift: Sketch
    """Of the last layer."""


def filter_layers(job: FilterJob, run: Map) -> Filtered:
    """Write verdicts for the shards that lack them.

    Reads one narrow column of each layer, twice, where a share of it is to be flagged. Raises CheckpointError for a
    scorer that cannot be loaded.
    """
    share = job.filters.drop_lowest_min_logprob_share
    thresholds = [
        layer_threshold(partial(_min_logprobs, job.corpus, layer), share) if share else None for layer, _ in job.layers
    ]
    counts: Counter[str] = Counter()
    drift = Sketch()
    for found, figures in run(_ShardFilter(job, thresholds), job.corpus.shards):
        counts.update(found)
        drift += figures
    return Filtered(dict(counts), drift)


def _min_logprobs(corpus: Corpus, layer: Layer) -> Iterator[pa.ChunkedArray]:
    """One column, shard by shard, read some shards ahead."""

    def read(shard: ShardRef) -> pa.ChunkedArray:
        return layer.read(shard.source, shard.shard, columns=["min_logprob"]).column("min_logprob")

    shards = iter(corpus.shards)
    with ThreadPoolExecutor(_SHARDS_AT_ONCE) as pool:
        while some := list(islice(shards, 4 * _SHARDS_AT_ONCE)):
            yield from pool.map(read, some)


class _ShardFilter:
    """Judges one shard; picklable, so that it runs anywhere."""

    def __init__(self, job: FilterJob, thresholds: Sequence[float | None]) -> None:
        self._job, self._thresholds = job, thresholds

    def __call__(self, shard: ShardRef) -> tuple[dict[str, int], Sketch]:
        if (told := self._told(shard)) is not None:
            return told
        job = self._job
        rows = [_captioned(layer, shard) for layer, _ in job.layers]
        numbers = sorted({row["row"] for of_layer in rows for row in of_layer})
        alt_texts = {sample.row: sample.alt_text for sample in job.corpus.read(shard, numbers, images=False)}
        votes = ShardVotes()
        if job.votes is not None:
            votes = job.votes.of_shard(shard.source, shard.shard, self._shown(rows, alt_texts))
        rows = [_edited(number, of_layer, votes) for number, of_layer in enumerate(rows)]
        flags = [
            self._flags(of_layer, alt_texts, border) for of_layer, border in zip(rows, self._thresholds, strict=True)
        ]
        if job.check is not None:
            flags = [self._checked(job.check, shard, *judged) for judged in zip(rows, flags, strict=True)]
        counts: Counter[str] = Counter()
        if job.pick.by != "none" or job.votes is not None or len(rows) > 1:
            picking = Picking(job.corpus, job.filters, job.pick)
            counts.update(picking(shard, rows, flags, alt_texts, votes.comparisons))
        for of_layer in flags:
            counts.update(_count(of_layer))
        if num_edited := sum(row["edit"] is not None for of_layer in rows for row in of_layer):
            counts["edited"] = num_edited
        if votes.num_stale:
            counts["stale_votes"] = votes.num_stale
        drift = sketch(self._watched(shard, rows[-1], alt_texts))
        self._write(shard, rows, flags, {_COUNTS: json.dumps(dict(counts)), _DRIFT: drift.to_json()})
        return dict(counts), drift

    def _shown(self, rows: list[list[_Row]], alt_texts: dict[int, str]) -> dict[tuple[int, Place], str]:
        """What raters are shown of a shard, before any edit."""
        texts = {
            (row["row"], (number, row["variant"])): training_text(row["text"], self._job.filters)
            for number, of_layer in enumerate(rows)
            for row in of_layer
        }
        return texts | {(number, ALT_TEXT): text for number, text in alt_texts.items()}

    def _told(self, shard: ShardRef) -> tuple[dict[str, int], Sketch] | None:
        """What an earlier call found in the shard; None where it has not been judged."""
        verdicts = self._job.layers[-1][1]
        if not verdicts.has(shard.source, shard.shard):
            return None
        metadata = verdicts.metadata(shard.source, shard.shard)
        if _COUNTS not in metadata:
            return None
        return json.loads(metadata[_COUNTS]), Sketch.from_json(metadata[_DRIFT])

    def _flags(self, rows: list[_Row], alt_texts: dict[int, str], border: float | None) -> list[list[str]]:
        texts = [self._job.prompts.text(row["prompt_id"]) for row in rows]
        return judge(rows, [alt_texts[row["row"]] for row in rows], texts, self._job.filters, border)

    def _checked(self, check: SkillCheck, shard: ShardRef, rows: list[_Row], flags: list[list[str]]) -> list[list[str]]:
        """The flags with those of the skill."""
        texts = [training_text(row["text"], self._job.filters, row["edit"]) for row in rows]
        # a person has looked: an edit is judged by its form alone
        kept = [
            (row["row"], text, not found and row["edit"] is None)
            for row, text, found in zip(rows, texts, flags, strict=True)
        ]
        more = check.flags(self._job.corpus, shard, kept)
        return [[*found, *told] for found, told in zip(flags, more, strict=True)]

    def _watched(self, shard: ShardRef, rows: list[_Row], alt_texts: dict[int, str]) -> Iterator[Watched]:
        previous = self._job.previous
        before = {}
        if previous is not None and previous.has(shard.source, shard.shard):
            before = {(row["row"], row["variant"]): row["text"] for row in _captioned(previous, shard)}
        for row in rows:
            yield Watched(
                text=row["text"],
                prompt=self._job.prompts.text(row["prompt_id"]),
                is_cut_off=row["finish_reason"] == "length",
                alt_text=alt_texts[row["row"]],
                previous=before.get((row["row"], row["variant"])),
            )

    def _write(
        self, shard: ShardRef, rows: list[list[_Row]], flags: list[list[list[str]]], metadata: dict[str, str]
    ) -> None:
        key = ("source", "shard", "row", "sample_id", "variant")
        newest = len(rows) - 1
        for number, (_, verdicts) in enumerate(self._job.layers):
            judged = [
                {**{name: row[name] for name in key}, "flags": list(found), "text": row["edit"]}
                for row, found in zip(rows[number], flags[number], strict=True)
            ]
            table = pa.Table.from_pylist(judged, schema=VERDICT)
            verdicts.write(shard.source, shard.shard, table, metadata if number == newest else None)


def _captioned(layer: Layer, shard: ShardRef) -> list[_Row]:
    table = layer.read(shard.source, shard.shard)
    return [row for row in table.to_pylist() if row["status"] == Status.CAPTIONED.value]


def _edited(layer: int, rows: list[_Row], votes: ShardVotes) -> list[_Row]:
    """The rows of a layer, each with its `edit`: a person's text in its place, or None."""
    return [{**row, "edit": votes.edits.get((row["row"], (layer, row["variant"])))} for row in rows]


def _count(flags: Iterable[Iterable[str]]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for found in flags:
        counts["captions"] += 1
        counts.update(found)
        counts["kept"] += not found
    return dict(counts)
