"""What `decoding.prefill` wants of images and of written conversations, for LLaVA-like families."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from PIL.Image import Image


def pixel_values(processor: Any, images: list[Image]) -> torch.Tensor:
    """What the tower takes, [images, 3, H, W]. Resizing to the size that all have already would only cost time."""
    prepare = processor.image_processor
    wanted = (prepare.size.get("width"), prepare.size.get("height"))
    settings = {"do_resize": False} if all(image.size == wanted for image in images) else {}
    pixels: torch.Tensor = prepare(images, return_tensors="pt", **settings)["pixel_values"]
    return pixels


def written_ids(
    processor: Any, texts: list[str], special: bool, num_image_tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask [texts, L], padded on the left; each placeholder as often as an image has tokens."""
    mark, distinct = processor.image_token, {text: number for number, text in enumerate(dict.fromkeys(texts))}
    expanded = [text.replace(mark, mark * num_image_tokens) for text in distinct]
    encoded = processor.tokenizer(expanded, padding=True, add_special_tokens=special, return_tensors="pt")
    text_of_row = torch.tensor([distinct[text] for text in texts])
    return encoded["input_ids"][text_of_row], encoded["attention_mask"][text_of_row]
