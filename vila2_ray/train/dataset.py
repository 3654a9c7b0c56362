"""Images with their alt texts and captions as a plain torch dataset, for a training loop of one's own.

    from torch.utils.data import DataLoader
    from vila2_ray import Campaign
    from vila2_ray.train.dataset import CaptionDataset

    campaign = Campaign("runs/tiny")
    layers = {"round-1": (campaign.layer("round-1"), campaign.verdicts("round-1"))}
    dataset = CaptionDataset(campaign.corpus(), layers, transform=preprocess)
    for epoch in range(2):
        dataset.set_epoch(epoch)
        for batch in DataLoader(dataset, batch_size=32, num_workers=4, collate_fn=collate): ...

Shards and layers are read side by side: no campaign is needed but for where its layers lie. Ranges of rows are dealt
out to ranks and to the workers of a DataLoader, in an order that seed and epoch decide; each worker shuffles what it
reads within a window. Ranks may get numbers of samples that differ by a range, and images that cannot be decoded are
left out, so that a loop of several ranks counts its own steps.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info

from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.layers import Layer
from vila2_ray.corpus.samples import Sample
from vila2_ray.corpus.screening import Screening
from vila2_ray.corpus.shards import ShardRef
from vila2_ray.corpus.verdicts import Opinions, Verdicts
from vila2_ray.errors import ConfigError, SampleError
from vila2_ray.schema import Status
from vila2_ray.storage import Store

_RANGE_ROWS = 256

Layers = Mapping[str, Layer | str | tuple[Layer, Verdicts | None]]
"""Name → a layer, its folder `<campaign>/captions/<layer>/<fp8>` as a URI, or a layer with what is thought of it."""


class _Range(NamedTuple):
    ref: ShardRef
    start: int
    stop: int


class CaptionDataset(IterableDataset[dict[str, Any]]):
    """Samples as `{"image", "alt_text", "captions": {layer: [text, …]}, "sample_id", "source", "shard", "row"}`.

    A layer's texts are those of the sample's variants that no verdict flags, in order, as the model wrote them or as a
    person has edited them; the list may be empty.
    """

    def __init__(
        self,
        corpus: Corpus | str,
        layers: Layers | None = None,
        *,
        transform: Callable[[Image.Image], Any] | None = None,
        shuffle: bool = True,
        seed: int = 0,
        shuffle_window: int = 1000,
        screening: Screening | None = None,
        rank: int | None = None,
        world: int | None = None,
        source: str = "pretrain",
        index: str = "",
    ) -> None:
        """`corpus` is one of a campaign's, or a URI (folder, glob, file); its layers then know it by the name `source`,
        and its index is kept in the folder `index`, by default in the user's cache.

        `transform` is given RGB images; None yields them as they are. `shuffle_window`: encoded samples in a worker's
        memory. `screening`: samples to leave out. `rank` and `world` are torch.distributed's, or those of the
        environment (RANK, WORLD_SIZE), where they are not given. Raises ConfigError.
        """
        if shuffle_window < 1:
            raise ConfigError("shuffle_window", shuffle_window, "must be at least 1; shuffle=False keeps the order")
        if (rank is None) != (world is None) or (rank is not None and world is not None and not 0 <= rank < world):
            raise ConfigError("rank", rank, f"give rank and world together, 0 ≤ rank < world ({world})")
        self._given, self._source, self._index = corpus, source, index
        self._layers = {name: _opened(layer) for name, layer in (layers or {}).items()}
        self._transform, self._screening = transform, screening
        self._shuffle, self._seed, self._window = shuffle, seed, shuffle_window
        self._place = (rank, world) if rank is not None and world is not None else None
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers that outlive an epoch see it, too

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass."""
        self._epoch.fill_(epoch)

    @property
    def corpus(self) -> Corpus:
        """What is read. Raises CorpusError where there is nothing."""
        if isinstance(self._given, str):
            name = hashlib.sha256(self._given.encode()).hexdigest()[:16]
            folder = self._index or str(Path.home() / ".cache" / "vila2_ray" / "index" / name)
            self._given = Corpus.open(self._given, self._source, Store(folder))
        return self._given

    def __len__(self) -> int:
        """Samples of all ranks, bad ones included. A DataLoader's length is right for one rank."""
        return self.corpus.total_rows()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        rank, world = self._place or _place()
        part, parts = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        epoch = int(self._epoch)
        ranges = self._ranges(epoch)[rank * parts + part :: world * parts]
        samples = self._samples(ranges)
        if self._shuffle:
            samples = _shuffled(samples, self._window, np.random.default_rng([self._seed, epoch, rank, part]))
        for sample, captions in samples:
            try:
                image = self.corpus.decode(sample)
            except SampleError:
                continue
            yield {
                "image": image if self._transform is None else self._transform(image),
                "alt_text": sample.alt_text,
                "captions": captions,
                "sample_id": sample.sample_id,
                "source": sample.source,
                "shard": sample.shard,
                "row": sample.row,
            }

    def _ranges(self, epoch: int) -> list[_Range]:
        """All row ranges: the same on every rank and worker."""
        ranges = [
            _Range(ref, start, min(start + _RANGE_ROWS, num_rows))
            for ref, num_rows in self.corpus.rows_by_shard()
            for start in range(0, num_rows, _RANGE_ROWS)
        ]
        if not self._shuffle:
            return ranges
        order = np.random.default_rng([self._seed, epoch]).permutation(len(ranges))
        return [ranges[number] for number in order]

    def _samples(self, ranges: list[_Range]) -> Iterator[tuple[Sample, dict[str, list[str]]]]:
        """Encoded samples with their captions, range by range."""
        for ref, start, stop in ranges:
            left_out = self._screening.flags(ref.source, ref.shard) if self._screening is not None else {}
            captions = {name: _texts(*layer, ref) for name, layer in self._layers.items()}
            rows = [row for row in range(start, stop) if row not in left_out]
            for sample in self.corpus.read(ref, rows):
                yield sample, {name: texts.get(sample.row, []) for name, texts in captions.items()}


def _opened(layer: Layer | str | tuple[Layer, Verdicts | None]) -> tuple[Layer, Verdicts | None]:
    if isinstance(layer, tuple):
        return layer
    return (Layer(Store(layer)) if isinstance(layer, str) else layer), None


def _texts(layer: Layer, verdicts: Verdicts | None, ref: ShardRef) -> dict[int, list[str]]:
    """Row → its kept captions; empty for a shard that the layer does not have."""
    if not layer.has(ref.source, ref.shard):
        return {}
    told = verdicts.opinions(ref.source, ref.shard) if verdicts is not None else Opinions({}, {})
    table = layer.read(ref.source, ref.shard, ["row", "variant", "status", "text"])
    texts: dict[int, list[str]] = {}
    for row in table.to_pylist():
        key = (row["row"], row["variant"])
        if row["status"] == Status.CAPTIONED.value and key not in told.flags:
            texts.setdefault(row["row"], []).append(told.edits.get(key, row["text"] or ""))
    return texts


def _shuffled(samples: Iterator[Any], window: int, rng: np.random.Generator) -> Iterator[Any]:
    """One of the last `window` at random, until none is left."""
    held: list[Any] = []
    for sample in samples:
        held.append(sample)
        if len(held) == window:
            yield _taken(held, rng)
    while held:
        yield _taken(held, rng)


def _taken(held: list[Any], rng: np.random.Generator) -> Any:
    at = int(rng.integers(len(held)))
    held[at], held[-1] = held[-1], held[at]
    return held.pop()


def _place() -> tuple[int, int]:
    """This process's rank and the world's size."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
