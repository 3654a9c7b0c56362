"""Duplicates within and across shards, in bounded memory: three passes over verdicts, each of independent tasks.

    spill     a group of shards → its hashes, divided over partitions such that what could be alike shares one
    search    a partition → places of the samples that repeat an earlier one, divided over groups
    merge     a group → flags into the verdict files of its shards

A partition holds equal SHA-256 digests, or perceptual hashes that are equal in one band (see `screening.bands`). Only
samples that nothing else is held against take part: what is left out anyway must not push its twin out as well. A
sample's place in corpus order is `shard number << 32 | row`. Each pass can be repeated, and goes on where it stopped.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vila2_ray.config import ScreenConfig
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.screening import ImageVerdicts, as_numbers, count_flags
from vila2_ray.corpus.shards import Map
from vila2_ray.screening.bands import band_of, cut, near_repeats, repeats
from vila2_ray.screening.rules import AMONG_SAMPLES, Flag
from vila2_ray.storage import Store

ROWS_PER_GROUP = 1_000_000
"""Samples whose verdicts lie in one task's memory: about a gigabyte."""
ROWS_PER_PARTITION = 8_000_000
"""Hashes that are searched by one task: some hundred megabytes."""
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Group:
    """Neighbouring shards; `first` is the number of the first in corpus order."""

    number: int
    first: int
    shards: tuple[str, ...]


@dataclass(frozen=True)
class DuplicateSearch:
    """What the tasks need; picklable, and small whatever the corpus holds but for its shards' names."""

    source: str
    verdicts: ImageVerdicts
    config: ScreenConfig
    work: Store
    """Holds what one pass leaves for the next; named after the corpus's content, deleted at the end."""
    covers: str
    """Digest of the corpus; stands in every verdict file that is finished."""
    num_partitions: int
    group_firsts: tuple[int, ...]

    def spill(self, group: Group) -> int:
        """Write the group's hashes to the partitions; how many samples take part."""
        keys, places, looks = self._candidates(group)
        if self.config.exact_duplicates:
            columns = {"high": keys[:, 0], "low": keys[:, 1], "place": places}
            self._write_partitions("exact", group.number, columns, keys[:, 0])
        if self.config.near_duplicates:
            bands = cut(self.config.near_distance)
            mixed = [(band_of(looks, band) + np.uint64(n << 56)) * _MIX for n, band in enumerate(bands)]
            columns = {
                "band": np.repeat(np.arange(len(bands), dtype=np.uint64), len(looks)),
                "hash": np.tile(looks, len(bands)),
                "place": np.tile(places, len(bands)),
            }
            self._write_partitions("near", group.number, columns, np.concatenate(mixed) >> np.uint64(32))
        self.work.write_text(f"spilled/{group.number:06}", "")
        return len(places)

    def search(self, partition: tuple[str, int]) -> int:
        """Write the places of repeats in a partition, by group; how many there are."""
        kind, number = partition
        names = self.work.list(f"spill/{kind}/{number:05}")
        found = np.array([], np.uint64)
        if names:
            table = pa.concat_tables([self.work.read_table(name) for name in names])
            found = self._exact(table) if kind == "exact" else self._near(table)
        shards = (found >> np.uint64(32)).astype(np.int64)
        groups = np.searchsorted(self.group_firsts, shards, side="right") - 1
        for group in np.unique(groups):
            self.work.write_table(
                f"found/{group:06}/{kind}-{number:05}.parquet", pa.table({"place": found[groups == group]})
            )
        self.work.write_text(f"searched/{kind}-{number:05}", "")
        return len(found)

    def merge(self, group: Group) -> dict[str, int]:
        """Finish the verdict files of the group's shards; samples by flag."""
        found: dict[str, list[np.ndarray]] = {"exact": [], "near": []}
        for name in self.work.list(f"found/{group.number:06}"):
            kind = name.rpartition("/")[2].partition("-")[0]
            found[kind].append(self.work.read_table(name)["place"].to_numpy())
        exact, near = (set(np.concatenate(found[kind]).tolist() if found[kind] else ()) for kind in ("exact", "near"))
        counts: dict[str, int] = {}
        for number, shard in enumerate(group.shards, group.first):
            place = number << 32
            table = self.verdicts.read(self.source, shard)
            before, flags = table["flags"].to_pylist(), []
            for row, others in enumerate(before):
                kept = [flag for flag in others if flag not in AMONG_SAMPLES]
                if place + row in exact:
                    kept.append(Flag.DUPLICATE.value)
                elif place + row in near:
                    kept.append(Flag.NEAR_DUPLICATE.value)
                flags.append(kept)
            where = table.schema.get_field_index("flags")
            table = table.set_column(where, table.schema.field(where), pa.array(flags, pa.list_(pa.string())))
            metadata = self.verdicts.metadata(self.source, shard)
            if metadata.get("covers") != self.covers or flags != before:
                told = {name: metadata[name] for name in ("stamp", "digest")}
                self.verdicts.write(self.source, shard, table, {**told, "covers": self.covers})
            for name, count in count_flags(table).items():
                counts[name] = counts.get(name, 0) + count
        return counts

    def _candidates(self, group: Group) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the samples that take part: SHA-256 [N, 4] (its 8-byte words), places [N], perceptual hashes [N]."""
        digests, places, looks = [], [], []
        for number, shard in enumerate(group.shards, group.first):
            table = self.verdicts.read(self.source, shard, ["row", "width", "image_sha256", "phash", "flags"])
            others = [any(flag not in AMONG_SAMPLES for flag in flags) for flags in table["flags"].to_pylist()]
            table = table.filter(pc.and_(table["width"].is_valid(), pc.invert(pa.array(others, pa.bool_()))))
            digests += table["image_sha256"].to_pylist()
            looks += [value for value in table["phash"].to_pylist() if value is not None]
            places.append(table["row"].to_numpy().astype(np.uint64) + np.uint64(number << 32))
        place = np.concatenate(places) if places else np.array([], np.uint64)
        return as_numbers(digests).reshape(-1, 4), place, as_numbers(looks)

    def _write_partitions(self, kind: str, group: int, columns: dict[str, np.ndarray], keys: np.ndarray) -> None:
        chosen = (keys % np.uint64(self.num_partitions)).astype(np.int64)
        for partition in np.unique(chosen):
            inside = chosen == partition
            table = pa.table({name: column[inside] for name, column in columns.items()})
            self.work.write_table(f"spill/{kind}/{partition:05}/{group:06}.parquet", table)

    def _exact(self, table: pa.Table) -> np.ndarray:
        high, low, place = (table[name].to_numpy() for name in ("high", "low", "place"))
        return np.sort(repeats((high, low), place))

    def _near(self, table: pa.Table) -> np.ndarray:
        found = []
        for number, band in enumerate(cut(self.config.near_distance)):
            rows = table.filter(pc.equal(table["band"], number))
            hashes, place = rows["hash"].to_numpy(), rows["place"].to_numpy()
            found.append(near_repeats(hashes, place, band, self.config.near_distance))
        return np.unique(np.concatenate(found))


def flag_duplicates(
    corpus: Corpus, verdicts: ImageVerdicts, config: ScreenConfig, work: Store, run: Map
) -> dict[str, int]:
    """Flag what repeats an earlier sample, in verdict files of every shard of `corpus`; samples by flag.

    `run` applies a function to items anywhere, as for the index. Every shard must have been screened by itself.
    """
    covers = corpus.digest()
    groups = _groups(corpus, ROWS_PER_GROUP)
    kinds = ["exact"] * config.exact_duplicates + ["near"] * config.near_duplicates
    hashes = corpus.total_rows() * (1 + config.near_distance if config.near_duplicates else 1)
    num_partitions = 1 + hashes // ROWS_PER_PARTITION
    firsts = tuple(group.first for group in groups)
    mine = work.sub(covers[:16])
    search = DuplicateSearch(corpus.source, verdicts, config, mine, covers, num_partitions, firsts)
    spilled = {name.rpartition("/")[2] for name in mine.list("spilled")}
    _all(run(search.spill, [group for group in groups if f"{group.number:06}" not in spilled]))
    searched = {name.rpartition("/")[2] for name in mine.list("searched")}
    partitions = [(kind, number) for kind in kinds for number in range(num_partitions)]
    _all(run(search.search, [(kind, number) for kind, number in partitions if f"{kind}-{number:05}" not in searched]))
    counts: dict[str, int] = {}
    for found in run(search.merge, groups):
        for name, count in found.items():
            counts[name] = counts.get(name, 0) + count
    work.delete_tree()
    return counts


def _groups(corpus: Corpus, most: int) -> list[Group]:
    """Consecutive shards, of about `most` samples together."""
    cuts, rows = [0], 0
    for number, ref in enumerate(corpus.shards):
        if rows and rows + corpus.num_rows(ref) > most:
            cuts.append(number)
            rows = 0
        rows += corpus.num_rows(ref)
    names = [ref.shard for ref in corpus.shards]
    edges = [*cuts, len(names)]
    return [Group(n, a, tuple(names[a:b])) for n, (a, b) in enumerate(itertools.pairwise(edges))]


def _all(results: Iterable[Any]) -> None:
    for _ in results:
        pass
