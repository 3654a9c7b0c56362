"""Which samples a report shows, and what there is to show of each."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import pyarrow.compute as pc

from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.layers import Layer
from vila2_ray.corpus.samples import Sample as CorpusSample
from vila2_ray.corpus.verdicts import Opinions, Verdicts
from vila2_ray.errors import SampleError
from vila2_ray.report.data import MISSING, Caption, Sample
from vila2_ray.report.evidence import Evidence, evidence
from vila2_ray.report.pictures import thumbnail
from vila2_ray.report.tally import Key, Tally
from vila2_ray.report.wrong import known_names, things_there, wrong_spans

Why = Literal["random", "flagged", "failed"]
_FLAGGED_SHARE, _FAILED_SHARE = 0.12, 0.06
"""Of the samples, so many at most are there because something is wrong with them; the rest is drawn from all."""


def draw_keys(tally: Tally, num_samples: int, seed: int) -> dict[Key, Why]:
    """The samples to show, random ones first. The same campaign and seed give the same ones."""
    rng = random.Random(f"report:{seed}")
    shards = list(tally.rows.items())
    total = tally.num_rows
    wanted = min(num_samples, total)
    flagged = _some(tally.flagged, int(wanted * _FLAGGED_SHARE), rng)
    failed = _some(tally.failed, int(wanted * _FAILED_SHARE), rng)
    chosen: dict[Key, Why] = {}
    for position in rng.sample(range(total), wanted):
        for (source, shard), rows in shards:
            if position < rows:
                chosen[source, shard, position] = "random"
                break
            position -= rows
    extra: dict[Key, Why] = {}
    reasons: tuple[tuple[Why, list[Key]], ...] = (("flagged", flagged), ("failed", failed))
    for why, keys in reasons:
        extra.update((key, why) for key in keys if key not in chosen)
    kept = list(chosen.items())[: max(0, wanted - len(extra))]
    return {**dict(kept), **extra}


def draw_samples(
    tally: Tally,
    layers: Mapping[str, Layer],
    verdicts: Mapping[str, Verdicts | None],
    corpus: Corpus | None,
    num_samples: int,
    seed: int,
    skills: Collection[str] = (),
) -> tuple[Sample, ...]:
    """Images, alt texts and captions of `num_samples` samples. `skills` are the layers that specialists wrote."""
    chosen = draw_keys(tally, num_samples, seed)
    by_shard: dict[tuple[str, str], list[int]] = {}
    for source, shard, row in chosen:
        by_shard.setdefault((source, shard), []).append(row)
    pictured = {pair: _read(corpus, pair[1], rows) for pair, rows in by_shard.items()}
    names = known_names(sample.truth for by_row in pictured.values() for sample in by_row.values())
    found: dict[Key, Sample] = {}
    for (source, shard), rows in by_shard.items():
        written = {name: _captions(name, layer, verdicts[name], source, shard, rows) for name, layer in layers.items()}
        for row in rows:
            captions = {name: by_row.get(row) for name, by_row in written.items()}
            key = (source, shard, row)
            sample = pictured[source, shard].get(row)
            found[key] = replace(_sample(key, sample, captions, corpus, names, skills), chosen_for=chosen[key])
    return tuple(found[key] for key in chosen)


def _some(keys: Iterable[Key], number: int, rng: random.Random) -> list[Key]:
    ordered = sorted(keys)
    return rng.sample(ordered, min(number, len(ordered)))


def _read(corpus: Corpus | None, shard: str, rows: list[int]) -> dict[int, CorpusSample]:
    if corpus is None:
        return {}
    known = sorted(row for row in rows if row < corpus.num_rows(shard))
    return {sample.row: sample for sample in corpus.read(shard, known, truth=True)}


def _captions(
    name: str, layer: Layer, verdicts: Verdicts | None, source: str, shard: str, rows: list[int]
) -> dict[int, dict[str, Any]]:
    """Row → the layer's columns for its first variant, `flags`, and `edit` where a person has given it another text."""
    if not layer.has(source, shard):
        return {}
    table = layer.read(source, shard)
    table = table.filter(pc.and_(pc.is_in(table["row"], pc.cast(rows, "int32")), pc.equal(table["variant"], 0)))
    told = verdicts.opinions(source, shard) if verdicts is not None else Opinions({}, {})
    return {
        row["row"]: {**row, "flags": told.flags.get((row["row"], 0), []), "edit": told.edits.get((row["row"], 0))}
        for row in table.to_pylist()
    }


def _sample(
    key: Key,
    found: CorpusSample | None,
    captions: Mapping[str, dict[str, Any] | None],
    corpus: Corpus | None,
    names: frozenset[str],
    skills: Collection[str],
) -> Sample:
    truth = found.truth if found is not None else None
    picture, problem = b"", "the image could not be looked up"
    if found is not None and corpus is not None:
        try:
            picture, problem = thumbnail(corpus.decode(found)), ""
        except SampleError as error:
            problem = str(error)
    alt_text = found.alt_text if found is not None else ""
    ids = (row["sample_id"] for row in captions.values() if row is not None)
    return Sample(
        sample_id=found.sample_id if found is not None else next(ids, f"{key[1]}/{key[2]}"),
        alt_text=alt_text,
        captions=tuple(_caption(name, row, truth, names, name in skills) for name, row in captions.items()),
        thumbnail=picture,
        problem=problem,
        alt_wrong=wrong_spans(alt_text, truth, names),
        truth=things_there(truth),
    )


def _caption(
    layer: str,
    row: dict[str, Any] | None,
    truth: dict[str, Any] | None,
    names: frozenset[str],
    is_specialists: bool,
) -> Caption:
    if row is None:
        return Caption(layer, MISSING, is_specialists=is_specialists)
    text = row["edit"] or row["text"] or ""  # one that was edited to nothing is shown as it was, with its flag
    found = evidence(layer, text, truth, names) if is_specialists else Evidence()
    return Caption(
        layer=layer,
        status=row["status"],
        text=text,
        flags=tuple(row["flags"]),
        is_edited=bool(row["edit"]),
        error=row["error"] or "",
        error_detail=row["error_detail"] or "",
        prompt_id=row["prompt_id"] or "",
        finish_reason=row["finish_reason"] or "",
        mean_logprob=row["mean_logprob"],
        wrong=found.words or wrong_spans(text, truth, names),
        boxes=found.boxes,
        relations=found.relations,
        is_specialists=is_specialists,
    )
