"""Reads ahead of the loop: tokens and pixels of coming steps, in a thread of its own, made into micro-batches."""

from __future__ import annotations

import queue
import threading
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from vila2_ray.train.collate import Batch, collate
from vila2_ray.train.packplan import ItemKey, PackPlan, rank_slice
from vila2_ray.train.source import ImageKey, Source, Tokens

_STEPS_AHEAD = 8
_CHUNK_ITEMS = 512
"""Items whose data is asked for at once: a ranged read per shard then fetches several of them."""


class StepKeys(NamedTuple):
    """What a rank trains on in one step."""

    step: int
    sequences: list[list[ItemKey]]

    @property
    def items(self) -> list[ItemKey]:
        return [key for sequence in self.sequences for key in sequence]


class Fetched(NamedTuple):
    """What was fetched for a step, and perhaps for others as well."""

    tokens: Mapping[ItemKey, Tokens]
    pixels: Mapping[ImageKey, torch.Tensor | None]
    """[3, H, W]; None for an image that cannot be decoded."""


@dataclass
class StepData:
    """One rank's part of one step."""

    step: int
    batches: list[Batch]
    pixels: dict[ImageKey, torch.Tensor]
    """[3, H, W] of every image that the reader found to be uncached; blank for those in `masked`."""
    masked: set[ImageKey]
    """Images that cannot be decoded."""

    @property
    def num_supervised(self) -> int:
        return sum(batch.num_supervised for batch in self.batches)


@dataclass(frozen=True)
class Reader:
    """Where a rank's steps come from: its own thread, which asks `source` for hundreds of items at a time."""

    plan: PackPlan
    source: Source
    micro_batch_size: int
    pad_token_id: int
    image_token_id: int
    rank: int = 0
    world: int = 1
    flat: bool = False
    """Micro-batches of one row, for attention of variable length (see `collate`)."""

    def steps(self, first: int, cached: Container[ImageKey]) -> Iterator[StepData]:
        """Steps from `first` on, read ahead in a thread. Pixels are not fetched for images in `cached`.

        Whatever the source raises is raised here.
        """
        ready: queue.Queue[StepData | BaseException | None] = queue.Queue(maxsize=_STEPS_AHEAD)
        stop = threading.Event()

        def put(thing: StepData | BaseException | None) -> None:
            while not stop.is_set():
                try:
                    return ready.put(thing, timeout=0.2)
                except queue.Full:
                    continue

        def read() -> None:
            try:
                for data in self._read(first, cached):
                    put(data)
                    if stop.is_set():
                        return
                put(None)
            except BaseException as error:
                put(error)

        thread = threading.Thread(target=read, name="training-reader", daemon=True)
        thread.start()
        try:
            while (thing := ready.get()) is not None:
                if isinstance(thing, BaseException):
                    raise thing
                yield thing
        finally:
            stop.set()
            thread.join()

    def keys(self, first: int) -> Iterator[StepKeys]:
        """This rank's part of every step from `first` on."""
        for step in range(first, self.plan.num_steps):
            numbers = rank_slice(step, self.plan.batch_size, self.rank, self.world)
            yield StepKeys(step, [self.plan.sequence(number) for number in numbers])

    def fetch(self, first: int, cached: Container[ImageKey]) -> Iterator[tuple[StepKeys, Fetched]]:
        """The steps from `first` on with what they are made of; the first by itself, so that training begins soon."""
        chunk: list[StepKeys] = []
        num_items = 0
        for keys in self.keys(first):
            chunk.append(keys)
            num_items += len(keys.items)
            if num_items >= _CHUNK_ITEMS or keys.step in (first, self.plan.num_steps - 1):
                fetched = fetch_items(self.source, [key for step in chunk for key in step.items], cached)
                yield from ((step, fetched) for step in chunk)
                chunk, num_items = [], 0

    def _read(self, first: int, cached: Container[ImageKey]) -> Iterator[StepData]:
        known_bad: set[ImageKey] = set()
        for keys, fetched in self.fetch(first, cached):
            images = dict.fromkeys(image for key in keys.items for image in fetched.tokens[key].images)
            pixels = {image: fetched.pixels[image] for image in images if image in fetched.pixels}
            known_bad.update(image for image, made in pixels.items() if made is None)
            size = self.micro_batch_size
            batches = [
                collate(
                    [[fetched.tokens[key] for key in sequence] for sequence in keys.sequences[at : at + size]],
                    pad_token_id=self.pad_token_id,
                    image_token_id=self.image_token_id,
                    masked=known_bad,
                    flat=self.flat,
                )
                for at in range(0, len(keys.sequences), size)
            ]
            shown = {image: self.source.blank if made is None else made for image, made in pixels.items()}
            yield StepData(keys.step, batches, self.shown(shown), known_bad & set(images))

    def shown(self, pixels: dict[ImageKey, torch.Tensor]) -> dict[ImageKey, torch.Tensor]:
        """What a step is given of `pixels`."""
        return pixels


def fetch_items(source: Source, keys: list[ItemKey], cached: Container[ImageKey] = ()) -> Fetched:
    """Tokens of the items, and the pixels of those of their images that are not in `cached`."""
    keys = list(dict.fromkeys(keys))
    tokens = dict(zip(keys, source.tokens(keys), strict=True))
    images = dict.fromkeys(image for made in tokens.values() for image in made.images)
    wanted = [image for image in images if image not in cached]
    return Fetched(tokens, _ByKey(wanted, source.pixels(wanted) if wanted else []))


class _ByKey(Mapping["ImageKey", "torch.Tensor | None"]):
    """Pixels by image. Only looking one up makes it."""

    def __init__(self, keys: list[ImageKey], pixels: Sequence[torch.Tensor | None]) -> None:
        self._numbers = {key: number for number, key in enumerate(keys)}
        self._pixels = pixels

    def __getitem__(self, key: ImageKey) -> torch.Tensor | None:
        return self._pixels[self._numbers[key]]

    def __contains__(self, key: object) -> bool:
        return key in self._numbers

    def __iter__(self) -> Iterator[ImageKey]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)
