"""The filter stage: opinions on a finished layer, written beside it shard by shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa

from vila2_ray.captions.filters import judge, layer_threshold
from vila2_ray.captions.prompts import Prompts
from vila2_ray.config import FiltersConfig
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.layers import Layer
from vila2_ray.corpus.shards import ShardRef
from vila2_ray.corpus.verdicts import Verdicts
from vila2_ray.schema import VERDICT, Status

Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


def judge_layer(
    corpus: Corpus, layer: Layer, verdicts: Verdicts, prompts: Prompts, config: FiltersConfig, run: Map
) -> dict[str, int]:
    """Write verdicts for the shards that lack them; captions by flag, `captions` (all) and `kept` counted over the
    layer.

    Reads one narrow column of the whole layer where a share of it is to be flagged.
    """
    threshold = None
    if config.drop_lowest_min_logprob_share > 0:
        threshold = layer_threshold(_min_logprobs(corpus, layer), config.drop_lowest_min_logprob_share)
    counts: Counter[str] = Counter()
    one = _ShardJudge(corpus, layer, verdicts, prompts, config, threshold)
    for found in run(one, corpus.shards):
        counts.update(found)
    return dict(counts)


def _min_logprobs(corpus: Corpus, layer: Layer) -> list[float]:
    values: list[float] = []
    for shard in corpus.shards:
        table = layer.read(shard.source, shard.shard, columns=["min_logprob"])
        values += [value for value in table.column("min_logprob").to_pylist() if value is not None]
    return values


class _ShardJudge:
    """Judges one shard; picklable, so that it runs anywhere."""

    def __init__(
        self,
        corpus: Corpus,
        layer: Layer,
        verdicts: Verdicts,
        prompts: Prompts,
        config: FiltersConfig,
        threshold: float | None,
    ) -> None:
        self._corpus, self._layer, self._verdicts = corpus, layer, verdicts
        self._prompts, self._config, self._threshold = prompts, config, threshold

    def __call__(self, shard: ShardRef) -> dict[str, int]:
        if self._verdicts.has(shard.source, shard.shard):
            return _count(self._verdicts.read(shard.source, shard.shard).column("flags").to_pylist())
        table = self._layer.read(shard.source, shard.shard)
        rows = [row for row in table.to_pylist() if row["status"] == Status.CAPTIONED.value]
        numbers = sorted({row["row"] for row in rows})
        alt_texts = {sample.row: sample.alt_text for sample in self._corpus.read(shard, numbers, images=False)}
        texts = [self._prompts.text(row["prompt_id"]) for row in rows]
        flags = judge(rows, [alt_texts[row["row"]] for row in rows], texts, self._config, self._threshold)
        key = ("source", "shard", "row", "sample_id", "variant")
        judged = [{**{name: row[name] for name in key}, "flags": list(f)} for row, f in zip(rows, flags, strict=True)]
        self._verdicts.write(shard.source, shard.shard, pa.Table.from_pylist(judged, schema=VERDICT))
        return _count(flags)


def _count(flags: Iterable[Iterable[str]]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for found in flags:
        counts["captions"] += 1
        counts.update(found)
        counts["kept"] += not found
    return dict(counts)
