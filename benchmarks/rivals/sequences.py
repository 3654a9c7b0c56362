"""The data of the hand-written loops: tokenized, packed sequences from a file, pictures from tar shards by offset.

`sequences.npz` holds what a team would have prepared for its loop: tokens, which are learned, where items begin, and
for each picture its shard, offset and size. Nothing of the measured trainer is imported.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

MakePixels = Callable[[list[Image.Image]], torch.Tensor]
"""RGB pictures → [N, 3, H, W] float32."""


def by_processor(processor: Any) -> MakePixels:
    """With the checkpoint's image processor, as most do."""
    return lambda pictures: processor(images=pictures, return_tensors="pt")["pixel_values"]


def by_hand(processor: Any) -> MakePixels:
    """The processor's arithmetic in torch, three times as quick and a rounding apart."""
    size, resample = (processor.size.width, processor.size.height), processor.resample
    scale = 1 / (255 * torch.tensor(processor.image_std))
    shift = torch.tensor(processor.image_mean) / torch.tensor(processor.image_std)

    def make(pictures: list[Image.Image]) -> torch.Tensor:
        pixels = torch.from_numpy(np.stack([np.asarray(picture.resize(size, resample)) for picture in pictures]))
        return pixels.float().mul_(scale).sub_(shift).permute(0, 3, 1, 2).contiguous()

    return make


class Sequences(Dataset):
    """Sequence n as arrays, its pictures decoded and made into pixels."""

    def __init__(self, folder: Path, make_pixels: MakePixels) -> None:
        self.arrays = dict(np.load(folder / "sequences.npz"))
        self.shards = sorted((folder / "corpus" / "pretrain").glob("*.tar"))
        self.make_pixels = make_pixels
        self.files: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.arrays["starts"]) - 1

    def __getitem__(self, number: int) -> dict[str, Any]:
        start, stop = self.arrays["starts"][number : number + 2]
        first, last = self.arrays["image_starts"][number : number + 2]
        pictures = [self._picture(*self.arrays["images"][at]) for at in range(first, last)]
        pixels = self.make_pixels(pictures) if pictures else None
        ids, learned, item = (self.arrays[name][start:stop] for name in ("ids", "learned", "item"))
        return {"ids": ids, "learned": learned, "item": item, "pixels": pixels}

    def _picture(self, shard: int, offset: int, size: int) -> Image.Image:
        if shard not in self.files:
            self.files[shard] = os.open(self.shards[shard], os.O_RDONLY)
        return Image.open(io.BytesIO(os.pread(self.files[shard], size, offset))).convert("RGB")


def collate(sequences: list[dict[str, Any]]) -> dict[str, Any]:
    """Padded [B, L] tensors, positions that start again with each item, a causal mask [B, 1, L, L] that parts items."""
    rows, length = len(sequences), max(len(sequence["ids"]) for sequence in sequences)
    ids = np.zeros((rows, length), np.int64)
    learned = np.zeros((rows, length), bool)
    item = np.full((rows, length), -1, np.int32)
    positions = np.zeros((rows, length), np.int64)
    for row, sequence in enumerate(sequences):
        stop = len(sequence["ids"])
        ids[row, :stop], learned[row, :stop], item[row, :stop] = (sequence[n] for n in ("ids", "learned", "item"))
        begins = np.flatnonzero(np.diff(sequence["item"], prepend=-1))
        positions[row, :stop] = np.arange(stop) - np.repeat(begins, np.diff(np.append(begins, stop)))
    of = torch.from_numpy(item)
    mask = (of[:, :, None] == of[:, None, :]) & torch.ones(length, length, dtype=torch.bool).tril()
    pixels = [sequence["pixels"] for sequence in sequences if sequence["pixels"] is not None]
    return {
        "ids": torch.from_numpy(ids),
        "learned": torch.from_numpy(learned),
        "positions": torch.from_numpy(positions),
        "mask": mask[:, None],
        "pixels": torch.cat(pixels) if pixels else None,
    }


def micro_batches(num_steps: int, batch_size: int, micro: int, rank: int, world: int) -> Iterator[list[int]]:
    """Sequence numbers of a rank's micro-batches, step after step."""
    for step in range(num_steps):
        mine = list(range(step * batch_size + rank, (step + 1) * batch_size, world))
        yield from (mine[at : at + micro] for at in range(0, len(mine), micro))


def loader(dataset: Sequences, batches: list[list[int]], collate_fn: Any = collate) -> DataLoader:
    """One worker process prepares batches ahead."""
    return DataLoader(dataset, batch_sampler=batches, collate_fn=collate_fn, num_workers=1, prefetch_factor=4)


def attention_bias(mask: torch.Tensor, attention: str, dtype: torch.dtype) -> torch.Tensor:
    """A mask as the attention takes it: bool for sdpa, to be added for eager."""
    if attention == "sdpa":
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
