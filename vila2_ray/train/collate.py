"""Sequences of items → one batch, padded or flat.

With one item per sequence nothing but the causal mask is needed: padding stands at the end, where no real token looks
and where nothing is learned. Packed sequences restart their positions at every item, and a block-diagonal causal mask
keeps items apart. A flat batch is one row of all items after each other, without padding or mask: attention of variable
length (flash attention in transformers) reads off the restarted positions where an item begins.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vila2_ray.train.source import ImageKey, Tokens


@dataclass
class Batch:
    """A micro-batch of B sequences, padded to L tokens, N of them supervised."""

    input_ids: torch.Tensor
    """[B, L] int64."""
    position_ids: torch.Tensor | None
    """[B, L] int64; None: 0…L−1 in every sequence."""
    attention_mask: torch.Tensor | None
    """[B, 1, L, L] bool, True where a token may look; None: plain causal, within what `position_ids` tell apart."""
    predictors: torch.Tensor
    """[N] int64: flat positions (in B·L) whose hidden state predicts a supervised token."""
    targets: torch.Tensor
    """[N] int64: those tokens."""
    image_positions: torch.Tensor
    """[num_images · tokens per image] int64: flat positions of image tokens, in the order of `images`."""
    images: list[ImageKey]
    """In order of appearance; the same image may appear more than once."""
    num_items: int
    num_tokens: int
    """Without padding."""

    @property
    def num_supervised(self) -> int:
        return len(self.targets)

    def to(self, device: torch.device) -> Batch:
        if device.type == "cpu":
            return self
        moved = {k: v.to(device, non_blocking=True) for k, v in vars(self).items() if isinstance(v, torch.Tensor)}
        return Batch(**{**vars(self), **moved})


def collate(
    sequences: Sequence[Sequence[Tokens]],
    *,
    pad_token_id: int,
    image_token_id: int,
    masked: Collection[ImageKey] = (),
    flat: bool = False,
) -> Batch:
    """Make a batch; `flat`: B = 1, without padding or mask.

    Items with an image in `masked` keep their place and are not learned from.
    """
    if flat:
        sequences = [[item for sequence in sequences for item in sequence]]
    lengths = [sum(len(item.input_ids) for item in sequence) for sequence in sequences]
    num_rows, length = len(sequences), max(lengths)
    ids = np.full((num_rows, length), pad_token_id, np.int64)
    learned = np.zeros((num_rows, length), bool)
    packed = any(len(sequence) > 1 for sequence in sequences)
    positions = np.zeros((num_rows, length), np.int64)
    item_of = np.full((num_rows, length), -1, np.int32)
    images: list[ImageKey] = []
    for row, sequence in enumerate(sequences):
        at = 0
        for number, item in enumerate(sequence):
            stop = at + len(item.input_ids)
            ids[row, at:stop] = item.input_ids
            images += item.images
            if not any(image in masked for image in item.images):
                learned[row, at + 1 : stop] = item.supervised[1:]
            if packed:
                positions[row, at:stop] = np.arange(stop - at)
                item_of[row, at:stop] = number
            at = stop
    flat_ids = ids.reshape(-1)
    targets_at = np.flatnonzero(learned.reshape(-1))
    return Batch(
        input_ids=torch.from_numpy(ids),
        position_ids=torch.from_numpy(positions) if packed else None,
        attention_mask=_block_diagonal(torch.from_numpy(item_of)) if packed and not flat else None,
        predictors=torch.from_numpy(targets_at - 1),
        targets=torch.from_numpy(flat_ids[targets_at]),
        image_positions=torch.from_numpy(np.flatnonzero(flat_ids == image_token_id)),
        images=images,
        num_items=sum(len(sequence) for sequence in sequences),
        num_tokens=sum(lengths),
    )


def empty_batch() -> Batch:
    """One padding token, from which nothing is learned."""
    nothing = torch.zeros(0, dtype=torch.int64)
    return Batch(torch.zeros(1, 1, dtype=torch.int64), None, None, nothing, nothing, nothing, [], 0, 0)


def _block_diagonal(item_of: torch.Tensor) -> torch.Tensor:
    """[B, L] number of the item a position belongs to (−1: padding) → [B, 1, L, L] bool, causal within items.

    Padding looks at itself, so that no row of the mask is empty: an empty row gives NaN.
    """
    length = item_of.shape[1]
    same = item_of[:, :, None] == item_of[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    return (same & causal)[:, None]
