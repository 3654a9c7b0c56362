"""Reads ahead of the loop: tokens and pixels of coming steps, in a thread of its own, made into micro-batches."""

from __future__ import annotations

import queue
import threading
from collections.abc import Container, Iterator
from dataclasses import dataclass

import torch

from vila2_ray.train.collate import Batch, collate
from vila2_ray.train.packplan import ItemKey, PackPlan, rank_slice
from vila2_ray.train.source import ImageKey, Source

_CHUNK_ITEMS = 512
"""Items whose data is asked for at once: a ranged read per shard then fetches several of them."""


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
    """Where a rank's steps come from."""

    plan: PackPlan
    source: Source
    micro_batch_size: int
    pad_token_id: int
    image_token_id: int
    rank: int = 0
    world: int = 1

    def steps(self, first: int, cached: Container[ImageKey]) -> Iterator[StepData]:
        """Steps from `first` on, read ahead in a thread. Pixels are not fetched for images in `cached`.

        Whatever the source raises is raised here.
        """
        ready: queue.Queue[StepData | BaseException | None] = queue.Queue(maxsize=8)
        stop = threading.Event()

        def put(thing: StepData | BaseException | None) -> None:
            while not stop.is_set():
                try:
                    return ready.put(thing, timeout=0.2)
                except queue.Full:
                    continue

        def read() -> None:
            try:
                for data in self._read(first, cached, stop):
                    put(data)
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

    def _read(self, first: int, cached: Container[ImageKey], stop: threading.Event) -> Iterator[StepData]:
        known_bad: set[ImageKey] = set()
        steps: list[tuple[int, list[list[ItemKey]]]] = []
        num_items = 0
        for step in range(first, self.plan.num_steps):
            if stop.is_set():
                return
            sequences = [self.plan.sequence(n) for n in rank_slice(step, self.plan.batch_size, self.rank, self.world)]
            steps.append((step, sequences))
            num_items += sum(len(sequence) for sequence in sequences)
            if num_items >= _CHUNK_ITEMS or step == self.plan.num_steps - 1 or step == first:
                yield from self._chunk(steps, cached, known_bad)
                steps, num_items = [], 0

    def _chunk(
        self, steps: list[tuple[int, list[list[ItemKey]]]], cached: Container[ImageKey], known_bad: set[ImageKey]
    ) -> Iterator[StepData]:
        keys = list(dict.fromkeys(key for _, sequences in steps for sequence in sequences for key in sequence))
        tokens = dict(zip(keys, self.source.tokens(keys), strict=True))
        wanted = list(dict.fromkeys(t.image for t in tokens.values() if t.image is not None and t.image not in cached))
        pixels = {}
        for image, made in zip(wanted, self.source.pixels(wanted) if wanted else [], strict=True):
            if made is None:
                known_bad.add(image)
            pixels[image] = self.source.blank if made is None else made
        for step, sequences in steps:
            micro = [
                sequences[at : at + self.micro_batch_size] for at in range(0, len(sequences), self.micro_batch_size)
            ]
            batches = [
                collate(
                    [[tokens[key] for key in sequence] for sequence in part],
                    pad_token_id=self.pad_token_id,
                    image_token_id=self.image_token_id,
                    masked=known_bad,
                )
                for part in micro
            ]
            images = {image for batch in batches for image in batch.images}
            yield StepData(step, batches, {i: pixels[i] for i in images if i in pixels}, images & known_bad)
