"""An image → the pixels that a checkpoint's image processor makes of it, bit for bit, at a third of the time.

After resizing, every processor's arithmetic takes one of 256 levels to one number per channel. The processor itself
makes that table once; from then on images are resized to its size and looked up. Whether this gives the very same
pixels is tried on pictures of noise; a processor that does anything else keeps making them itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

_TRIED_SIZES = ((64, 48), (37, 211), (512, 384))
"""Width, height."""


class PixelMaker:
    """Makes pixels with one image processor."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._levels: np.ndarray | None = None  # [3, 256] float32
        size = getattr(processor, "size", None)
        self._size: Any = (getattr(size, "width", None), getattr(size, "height", None))
        self._resample = getattr(processor, "resample", None)
        if all(isinstance(side, int) for side in self._size) and self._resample is not None:
            self._levels = self._table()
            if self._levels is not None and not all(map(self._is_same, _TRIED_SIZES)):
                self._levels = None

    @property
    def is_fast(self) -> bool:
        """Whether the table stands in for the processor."""
        return self._levels is not None

    @property
    def levels(self) -> np.ndarray | None:
        """[3, 256] float32: what each channel's levels become; None where the processor makes the pixels itself."""
        return self._levels

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """[3, H, W] float32 of an RGB image."""
        if self._levels is None:
            return self._processed(image)
        resized = np.asarray(image.resize(self._size, self._resample))
        pixels = np.empty((3, *resized.shape[:2]), np.float32)
        for channel, levels in enumerate(self._levels):
            np.take(levels, resized[..., channel], out=pixels[channel], mode="clip")
        return torch.from_numpy(pixels)

    def _processed(self, image: Image.Image, **settings: Any) -> torch.Tensor:
        return self._processor(images=[image], return_tensors="pt", **settings)["pixel_values"][0].clone()

    def _table(self) -> np.ndarray | None:
        """What the processor makes of each level, without resizing. None where that is no image of three channels."""
        ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
        made = self._processed(Image.fromarray(ramp), do_resize=False, do_center_crop=False)
        if made.shape != (3, 16, 16) or made.dtype != torch.float32:
            return None
        return made.reshape(3, 256).numpy()

    def _is_same(self, size: tuple[int, int]) -> bool:
        noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
        image = Image.fromarray(noise)
        return torch.equal(self(image), self._processed(image))
