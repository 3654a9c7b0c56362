"""What the training loop asks its data for: tokens of items, pixels of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from vila2_ray.train.packplan import ItemKey

if TYPE_CHECKING:
    import torch


class ImageKey(NamedTuple):
    """Names an image of a sample; `number` counts those of a document or a conversation about several."""

    source: str
    shard: str
    row: int
    number: int = 0


@dataclass(frozen=True)
class Tokens:
    """One item as the model reads it, each image's placeholder expanded."""

    input_ids: np.ndarray
    """[T] int32."""
    supervised: np.ndarray
    """[T] bool: the loss counts this token as a target. Never the first, never an image's."""
    images: tuple[ImageKey, ...]
    """In order of appearance."""
    num_truncated: int = 0
    """Tokens that max_length cut off at the end."""


class Source(Protocol):
    """Called from the loop's reading thread, for hundreds of items at a time."""

    @property
    def blank(self) -> torch.Tensor:
        """Pixels [3, H, W] that stand in for an image that cannot be decoded."""

    def tokens(self, keys: Sequence[ItemKey]) -> list[Tokens]:
        """In the order of the keys."""

    def pixels(self, keys: Sequence[ImageKey]) -> Sequence[torch.Tensor | None]:
        """[3, H, W] float32 each, as the model's image processor makes them; None where an image cannot be decoded.

        They may be made when they are looked at.
        """


class MemorySource:
    """Everything in memory: what a small experiment or a test trains on."""

    def __init__(self, tokens: dict[ItemKey, Tokens], pixels: dict[ImageKey, torch.Tensor | None]) -> None:
        self._tokens, self._pixels = tokens, pixels

    @property
    def blank(self) -> torch.Tensor:
        some = next(made for made in self._pixels.values() if made is not None)
        return some.new_zeros(()).expand(some.shape)

    def tokens(self, keys: Sequence[ItemKey]) -> list[Tokens]:
        return [self._tokens[key] for key in keys]

    def pixels(self, keys: Sequence[ImageKey]) -> list[torch.Tensor | None]:
        return [self._pixels[key] for key in keys]
