"""Screening of a corpus: what is measured of each picture, what is held against it, and the reading of both.

    <campaign>/verdicts/images/<fp8>/<source>/<shard>.parquet    schema IMAGE_VERDICT
    <campaign>/verdicts/images/<fp8>/heldout/<shard>.parquet     the same of the held-out corpus, to compare with
    <campaign>/verdicts/images/<fp8>/lists.txt                   held-out hashes that people gave
    <campaign>/takedown/<digest>.txt                             every takedown list that the campaign has seen

Takedown lists are no verdicts: they are read whenever something is trained, captioned or exported, and only ever grow.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from vila2_ray.config import ScreenConfig
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.images import decode_image, image_size
from vila2_ray.corpus.index import current_metadata
from vila2_ray.corpus.samples import Sample
from vila2_ray.corpus.shardfiles import ShardFiles
from vila2_ray.corpus.shards import ShardRef
from vila2_ray.errors import CorpusError, SampleError
from vila2_ray.schema import IMAGE_VERDICT
from vila2_ray.screening.bands import KnownHashes
from vila2_ray.screening.lists import TakedownList, parse_hashes, parse_takedown, union_of_takedowns
from vila2_ray.screening.phash import perceptual_hash, to_hex
from vila2_ray.screening.rules import Flag, size_flags
from vila2_ray.storage import Store, split_uri

HELDOUT = "heldout"
"""Source name of the held-out corpus, whose files lie beside those that are compared with it."""
_LISTS = "lists.txt"


class ImageVerdicts(ShardFiles):
    """What screening found (schema IMAGE_VERDICT): a file per shard, a row per sample."""

    schema = IMAGE_VERDICT

    def _check(self, table: pa.Table, source: str, shard: str, where: str) -> None:
        """Raises CorpusError unless these are the rows 0 … n − 1 of this shard in order."""
        if table["row"].to_pylist() != list(range(table.num_rows)):
            raise CorpusError(where, "rows are out of order or not all there")
        if set(table["source"].to_pylist()) - {source} or set(table["shard"].to_pylist()) - {shard}:
            raise CorpusError(where, "holds rows of another shard")

    def flags(self, source: str, shard: str) -> dict[int, list[str]]:
        """Row → flags, flagged samples only. Raises CorpusError for a shard that has not been screened."""
        if not self.has(source, shard):
            where = self.store.path(self.path(source, shard))
            raise CorpusError(where, "this shard has not been screened", "Run vila2 run --until screen")
        table = self.read(source, shard, ["row", "flags"])
        return {row["row"]: row["flags"] for row in table.to_pylist() if row["flags"]}


@dataclass(frozen=True)
class KnownPictures:
    """Pictures that must not enter training, by their bytes and by their looks."""

    sha256: frozenset[str]
    looks: KnownHashes


@functools.lru_cache(maxsize=2)
def known_pictures(store: Store, distance: int) -> KnownPictures:
    """The held-out corpus as measured before, and the lists, from the folder of verdicts; read once per process."""
    sha256, phash = set[str](), set[str]()
    if store.exists(_LISTS):
        listed = parse_hashes(store.read_text(_LISTS), store.path(_LISTS))
        sha256, phash = set(listed.sha256), set(listed.phash)
    verdicts = ImageVerdicts(store)
    for source, shard in verdicts.shards(HELDOUT):
        table = verdicts.read(source, shard, ["image_sha256", "phash"])
        sha256.update(filter(None, table["image_sha256"].to_pylist()))
        phash.update(filter(None, table["phash"].to_pylist()))
    return KnownPictures(frozenset(sha256), KnownHashes(as_numbers(sorted(phash)), distance))


def as_numbers(phashes: list[str]) -> np.ndarray:
    """[N] uint64 of hashes in hexadecimal."""
    return np.frombuffer(bytes.fromhex("".join(phashes)), ">u8").astype(np.uint64)


def measure(sample: Sample, max_pixels: int, looks: bool) -> dict[str, Any]:
    """Width, height, image_sha256 and, where `looks` is asked for, phash of a sample; None where it has none.

    A picture that cannot be read has no size and no flag: captioning fails it with its reason.
    """
    found: dict[str, Any] = dict.fromkeys(("width", "height", "image_sha256", "phash"))
    if not sample.image:
        return found
    found["image_sha256"] = hashlib.sha256(sample.image).hexdigest()
    if sample.problem is not None:
        return found
    try:
        if looks:
            image = decode_image(sample.image, max_pixels)
            size, found["phash"] = image.size, to_hex(perceptual_hash(image))
        else:
            size = image_size(sample.image, max_pixels)
    except SampleError:
        return found
    found["width"], found["height"] = size
    return found


@dataclass(frozen=True)
class ShardScreen:
    """Measures one shard and writes what needs no other shard to be said of it; picklable, runs anywhere, idempotent.

    Of the held-out corpus itself only measures are written; of other sources than pretrain, only what is held out is
    flagged, a sample of several images for any of them.
    """

    corpus: Corpus
    verdicts: ImageVerdicts
    config: ScreenConfig

    def __call__(self, ref: ShardRef) -> dict[str, int]:
        """Samples of the shard by flag; `samples` and `kept` are counted as well."""
        self.corpus.index(ref)  # made, where it is missing
        told = current_metadata(ref, self.corpus.columns, self.corpus.index_store) or {}
        identity = {name: told[name] for name in ("stamp", "digest")}
        if self.verdicts.has(ref.source, ref.shard):
            found = self.verdicts.metadata(ref.source, ref.shard)
            if {name: found.get(name) for name in identity} == identity:
                return count_flags(self.verdicts.read(ref.source, ref.shard, ["flags"]))
        table = self._screened(ref)
        self.verdicts.write(ref.source, ref.shard, table, identity)
        return count_flags(table)

    def _screened(self, ref: ShardRef) -> pa.Table:
        looks = self.config.near_duplicates or self.config.finds_heldout
        rows, pictures = [], []
        for sample in self.corpus.read(ref):
            key = {"source": ref.source, "shard": ref.shard, "row": sample.row, "sample_id": sample.sample_id}
            rows.append({**key, **measure(sample, self.corpus.max_pixels, looks), "flags": []})
            for data in sample.pictures.values():
                single = dataclasses.replace(sample, image=data, problem=None)
                pictures.append({"row": sample.row, **measure(single, self.corpus.max_pixels, looks)})
            sample.image, sample.pictures = None, {}
        if ref.source == "pretrain":
            for row in rows:
                row["flags"] += size_flags(row["width"], row["height"], self.config) if row["width"] else []
        if ref.source != HELDOUT and self.config.finds_heldout:
            known = known_pictures(self.verdicts.store, self.config.near_distance)
            seen = [row for row in (*rows, *pictures) if row["phash"]]
            alike = known.looks.near(as_numbers([row["phash"] for row in seen]))
            near = {row["row"] for row, is_near in zip(seen, alike, strict=True) if is_near}
            same = {row["row"] for row in (*rows, *pictures) if row["image_sha256"] in known.sha256}
            for row in rows:
                if row["row"] in near | same:
                    row["flags"].append(Flag.HELDOUT.value)
        return pa.Table.from_pylist(rows, schema=IMAGE_VERDICT)


def count_flags(table: pa.Table) -> dict[str, int]:
    """Samples by flag, all (`samples`), and those without any (`kept`)."""
    counts: Counter[str] = Counter(samples=0, kept=0)
    for flags in table["flags"].to_pylist():
        counts["samples"] += 1
        counts.update(flags or ["kept"])
    return dict(counts)


def lists_digest(uris: Iterable[str]) -> str:
    """SHA-256 of the entries of files of held-out hashes. Raises CorpusError, StorageError."""
    return hashlib.sha256(_merged(uris).encode()).hexdigest()


def copy_lists(uris: Iterable[str], verdicts: ImageVerdicts) -> None:
    """Put the entries of files of held-out hashes beside the verdicts, where every worker sees them."""
    if text := _merged(uris):
        verdicts.store.write_text(_LISTS, text)


def _merged(uris: Iterable[str]) -> str:
    lists = [parse_hashes(_read(uri), uri) for uri in uris]
    return "".join(f"{entry}\n" for entry in sorted(set[str]().union(*(one.sha256 | one.phash for one in lists))))


class Takedowns:
    """Every takedown list that a campaign has ever seen: a file for each, none is taken back. Picklable."""

    def __init__(self, store: Store, names: Iterable[str]) -> None:
        self.store, self.names = store, tuple(names)

    @classmethod
    def look(cls, store: Store, uri: str = "") -> Takedowns:
        """The lists in `store`, with the one at `uri` as it is now. Raises CorpusError, StorageError."""
        if uri:
            lines = "".join(f"{line}\n" for line in parse_takedown(_read(uri), uri).lines())
            name = f"{hashlib.sha256(lines.encode()).hexdigest()[:16]}.txt"
            if lines and not store.exists(name):
                store.write_text(name, lines)
        return cls(store, store.list(suffix=".txt"))

    def digest(self) -> str:
        """Changes when the lists grow; "" where there are none."""
        return hashlib.sha256("\n".join(self.names).encode()).hexdigest() if self.names else ""

    def entries(self) -> TakedownList:
        return _entries(self.store, self.names)


@functools.lru_cache(maxsize=2)
def _entries(store: Store, names: tuple[str, ...]) -> TakedownList:
    return union_of_takedowns(parse_takedown(store.read_text(name), store.path(name)) for name in names)


@dataclass(frozen=True)
class Screening:
    """Which samples of a corpus are left out of everything, and why. Picklable; reads a shard when asked for it."""

    corpus: Corpus
    verdicts: ImageVerdicts | None = None
    takedowns: Takedowns | None = None

    def flags(self, source: str, shard: str) -> dict[int, list[str]]:
        """Row → flags (`screening.rules.Flag`) of the samples that are left out."""
        flags = self.verdicts.flags(source, shard) if self.verdicts is not None else {}
        for row in self._taken_down(source, shard):
            flags[row] = [*flags.get(row, []), Flag.TAKEDOWN.value]
        return flags

    def over(self, corpus: Corpus) -> Screening:
        """The same, of a corpus that holds some of the shards: what goes to another process."""
        return dataclasses.replace(self, corpus=corpus)

    def digest(self) -> str:
        """Names the state of everything that decides: verdicts and takedown lists."""
        told = [self.verdicts.store.uri if self.verdicts is not None else "", self.takedown_digest()]
        return hashlib.sha256("\n".join(told).encode()).hexdigest()

    def takedown_digest(self) -> str:
        return self.takedowns.digest() if self.takedowns is not None else ""

    def _taken_down(self, source: str, shard: str) -> list[int]:
        listed = self.takedowns.entries() if self.takedowns is not None else TakedownList()
        if not listed:
            return []
        keys = self.corpus.index(shard)["key"].to_pylist()
        found = {row for row, key in enumerate(keys) if f"{shard}/{key}" in listed.sample_ids}
        if listed.urls or listed.sha256:
            digests = self._digests(source, shard) if listed.sha256 else itertools.repeat(frozenset[str]())
            samples = self.corpus.read(shard, images=False)
            for sample, own in zip(samples, digests, strict=False):
                told = str(sample.extra.get("sha256", "")).lower()  # of the picture before img2dataset resized it
                if not listed.sha256.isdisjoint({*own, told}) or not listed.urls.isdisjoint(_urls(sample)):
                    found.add(sample.row)
        return sorted(found)

    def _digests(self, source: str, shard: str) -> Iterable[frozenset[str]]:
        """SHA-256 of each sample's images, in order: from its verdicts where they tell of all, else from the bytes."""
        has_several = "picture_numbers" in self.corpus.index(shard).column_names
        if self.verdicts is not None and not has_several:
            for told in self.verdicts.read(source, shard, ["image_sha256"])["image_sha256"].to_pylist():
                yield frozenset(filter(None, [told]))
            return
        for sample in self.corpus.read(shard):
            yield frozenset(
                hashlib.sha256(data).hexdigest() for data in (sample.image, *sample.pictures.values()) if data
            )


def _urls(sample: Sample) -> set[str]:
    """Where the sample's images came from, as far as it tells."""
    told = [sample.extra.get("url")]
    images, infos = sample.extra.get("images"), sample.extra.get("image_info")
    told += images if isinstance(images, list) else []
    told += [info.get("raw_url") for info in infos if isinstance(info, dict)] if isinstance(infos, list) else []
    return {url for url in told if isinstance(url, str)}


def _read(uri: str) -> str:
    folder, name = split_uri(uri)
    try:
        return Store(folder).read_text(name)
    except UnicodeDecodeError as error:
        raise CorpusError(uri, "is not UTF-8 text", "A list has one entry a line") from error
