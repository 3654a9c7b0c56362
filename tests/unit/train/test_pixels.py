from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from vila2_ray.train.pixels import PixelMaker

SIZE = {"height": 48, "width": 40}


def processed(processor, image: Image.Image) -> torch.Tensor:
    return processor(images=[image], return_tensors="pt")["pixel_values"][0]


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize(
    "settings",
    [
        {"image_mean": [0.5] * 3, "image_std": [0.5] * 3},
        {"image_mean": [0.48, 0.457, 0.408], "image_std": [0.268, 0.261, 0.275]},
        {"do_normalize": False},
        {"resample": 2},
    ],
)
@pytest.mark.parametrize("size", [(40, 48), (100, 30), (1, 1), (333, 500)])
def test_looked_up_pixels_are_the_processors_bit_for_bit(settings, size: tuple[int, int]) -> None:
    processor = SiglipImageProcessorPil(size=SIZE, **settings)
    make = PixelMaker(processor)
    assert make.is_fast
    made = make(picture(*size))
    assert made.dtype == torch.float32
    assert made.is_contiguous()
    assert torch.equal(made, processed(processor, picture(*size)))


@pytest.mark.parametrize(
    "processor",
    [
        CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size=SIZE),
        SiglipImageProcessorPil(size=SIZE, do_center_crop=True, crop_size={"height": 24, "width": 24}),
    ],
)
def test_a_processor_that_does_more_keeps_making_them_itself(processor) -> None:
    make = PixelMaker(processor)
    assert not make.is_fast
    assert torch.equal(make(picture(100, 70)), processed(processor, picture(100, 70)))
