"""The filter stage: opinions on finished layers, written beside them shard by shard.

A shard is judged whole, by one task and in bounded memory: its captions are flagged by the filters, `pick` chooses
among those that are kept, and the newest layer's figures go into a sketch of drift. Counts and sketch stand in the
metadata of that layer's verdict file, which is written last: where it is, nothing of the shard is looked at again.
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

from vila2_ray.campaign.skillcheck import SkillCheck
from vila2_ray.captions.drift import Sketch, Watched, sketch
from vila2_ray.captions.filters import Flag, judge, layer_threshold, training_text
from vila2_ray.captions.pick import pick
from vila2_ray.captions.prompts import Prompts
from vila2_ray.captions.words import has_content
from vila2_ray.config import FiltersConfig, PickConfig
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.layers import Layer
from vila2_ray.corpus.shards import Map, ShardRef
from vila2_ray.corpus.verdicts import Verdicts
from vila2_ray.errors import SampleError
from vila2_ray.schema import VERDICT, Status
from vila2_ray.storage import Store

_Row = dict[str, Any]
_COUNTS, _DRIFT = "counts", "drift"
_IMAGES_AT_ONCE = 16
_SHARDS_AT_ONCE = 16


@dataclass(frozen=True)
class JudgeJob:
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


@dataclass(frozen=True)
class Judgement:
    """Over all shards."""

    flags: dict[str, int]
    """Captions by flag; `captions` (all) and `kept` counted over all judged layers. With `pick`, `samples` that have a
    caption to pick and `alt_text` that stays with none of them picked."""
    drift: Sketch
    """Of the last layer."""


def judge_layers(job: JudgeJob, run: Map) -> Judgement:
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
    for found, figures in run(_ShardJudge(job, thresholds), job.corpus.shards):
        counts.update(found)
        drift += figures
    return Judgement(dict(counts), drift)


def _min_logprobs(corpus: Corpus, layer: Layer) -> Iterator[pa.ChunkedArray]:
    """One column, shard by shard, read some shards ahead."""

    def read(shard: ShardRef) -> pa.ChunkedArray:
        return layer.read(shard.source, shard.shard, columns=["min_logprob"]).column("min_logprob")

    shards = iter(corpus.shards)
    with ThreadPoolExecutor(_SHARDS_AT_ONCE) as pool:
        while some := list(islice(shards, 4 * _SHARDS_AT_ONCE)):
            yield from pool.map(read, some)


class _ShardJudge:
    """Judges one shard; picklable, so that it runs anywhere."""

    def __init__(self, job: JudgeJob, thresholds: Sequence[float | None]) -> None:
        self._job, self._thresholds = job, thresholds

    def __call__(self, shard: ShardRef) -> tuple[dict[str, int], Sketch]:
        if (told := self._told(shard)) is not None:
            return told
        job = self._job
        rows = [_captioned(layer, shard) for layer, _ in job.layers]
        numbers = sorted({row["row"] for of_layer in rows for row in of_layer})
        alt_texts = {sample.row: sample.alt_text for sample in job.corpus.read(shard, numbers, images=False)}
        flags = [
            self._flags(of_layer, alt_texts, border) for of_layer, border in zip(rows, self._thresholds, strict=True)
        ]
        if job.check is not None:
            flags = [self._checked(job.check, shard, *judged) for judged in zip(rows, flags, strict=True)]
        counts: Counter[str] = Counter()
        if job.pick.by != "none":
            counts.update(self._pick(shard, rows, flags, alt_texts))
        for of_layer in flags:
            counts.update(_count(of_layer))
        drift = sketch(self._watched(shard, rows[-1], alt_texts))
        self._write(shard, rows, flags, {_COUNTS: json.dumps(dict(counts)), _DRIFT: drift.to_json()})
        return dict(counts), drift

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
        texts = [training_text(row["text"], self._job.filters) for row in rows]
        kept = [(row["row"], text, not found) for row, text, found in zip(rows, texts, flags, strict=True)]
        more = check.flags(self._job.corpus, shard, kept)
        return [[*found, *told] for found, told in zip(flags, more, strict=True)]

    def _pick(
        self, shard: ShardRef, rows: list[list[_Row]], flags: list[list[list[str]]], alt_texts: dict[int, str]
    ) -> dict[str, int]:
        """Add `not_picked` to the flags of kept captions that are not chosen; what there was to choose from."""
        config, kept = self._job.pick, _by_sample(rows, flags)
        texts = {
            number: [{**rows[i][j], "text": training_text(rows[i][j]["text"], self._job.filters)} for i, j in places]
            for number, places in kept.items()
        }
        fits = dict(self._similarities(shard, texts, alt_texts)) if config.by == "scorer" else {}
        num_alt_text = 0
        for number, places in kept.items():
            if config.by == "scorer" and number not in fits:
                chosen = None  # the image could be decoded when it was captioned, and no longer can
            else:
                chosen = pick(texts[number], config, *fits.get(number, ()))
            num_alt_text += chosen is None
            for at, (i, j) in enumerate(places):
                if at != chosen:
                    flags[i][j] = [*flags[i][j], Flag.NOT_PICKED.value]
        return {"samples": len(kept), "alt_text": num_alt_text}

    def _similarities(
        self, shard: ShardRef, texts: dict[int, list[_Row]], alt_texts: dict[int, str]
    ) -> Iterator[tuple[int, tuple[list[float], float | None]]]:
        """Row → image–text similarity of its captions and of its alt text (None where there is none)."""
        from vila2_ray.engines.imagetext import open_scorer

        scorer = open_scorer(Store(self._job.pick.scorer).local_folder())
        for batch in self._job.corpus.read_decoded(shard, sorted(texts), _IMAGES_AT_ONCE):
            pictures = [(sample, image) for sample, image in batch if not isinstance(image, SampleError)]
            said = [[row["text"] for row in texts[sample.row]] for sample, _ in pictures]
            alone = [[alt_texts[s.row]] if has_content(alt_texts[s.row]) else [] for s, _ in pictures]
            asked = [captions + alt for captions, alt in zip(said, alone, strict=True)]
            for (sample, _), captions, found in zip(
                pictures, said, scorer.similarities([image for _, image in pictures], asked), strict=True
            ):
                rest = found[len(captions) :]
                yield sample.row, (found[: len(captions)], rest[0] if rest else None)

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
                {**{name: row[name] for name in key}, "flags": list(found)}
                for row, found in zip(rows[number], flags[number], strict=True)
            ]
            table = pa.Table.from_pylist(judged, schema=VERDICT)
            verdicts.write(shard.source, shard.shard, table, metadata if number == newest else None)


def _captioned(layer: Layer, shard: ShardRef) -> list[_Row]:
    table = layer.read(shard.source, shard.shard)
    return [row for row in table.to_pylist() if row["status"] == Status.CAPTIONED.value]


def _by_sample(rows: list[list[_Row]], flags: list[list[list[str]]]) -> dict[int, list[tuple[int, int]]]:
    """Row number → (layer, place) of its kept captions, newest layer first, then variants in order."""
    found: dict[int, list[tuple[int, int]]] = {}
    for i in reversed(range(len(rows))):
        for j, row in enumerate(rows[i]):
            if not flags[i][j]:
                found.setdefault(row["row"], []).append((i, j))
    return found


def _count(flags: Iterable[Iterable[str]]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for found in flags:
        counts["captions"] += 1
        counts.update(found)
        counts["kept"] += not found
    return dict(counts)
