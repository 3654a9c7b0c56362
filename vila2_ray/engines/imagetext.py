"""Image–text similarity by a CLIP or SigLIP checkpoint: how well a text fits a picture."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vila2_ray.engines.choice import choose_device
from vila2_ray.errors import CheckpointError
from vila2_ray.model.loading import check_checkpoint, load_processor


class ImageTextScorer:
    """Any `AutoModel` with image and text features in one space; safetensors and no remote code.

    Raises CheckpointError for a folder that holds none.
    """

    def __init__(self, folder: str | Path) -> None:
        from transformers import AutoModel

        path = check_checkpoint(folder)
        try:
            model: Any = AutoModel.from_pretrained(
                path, local_files_only=True, use_safetensors=True, trust_remote_code=False
            )
        except (ValueError, KeyError) as error:
            raise CheckpointError(str(folder), f"is no model that transformers knows: {error}") from error
        if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
            problem = f"is a {type(model).__name__}, which has no image and text features in one space"
            raise CheckpointError(str(folder), problem, "pick.scorer needs a CLIP or SigLIP folder")
        self._device = choose_device()
        self._model = model.eval().to(self._device)
        processor: Any = load_processor(folder)
        self._images, self._tokenizer = processor.image_processor, processor.tokenizer
        self._max_length = int(model.config.text_config.max_position_embeddings)

    @torch.inference_mode()
    def similarities(self, images: Sequence[Image.Image], texts: Sequence[Sequence[str]]) -> list[list[float]]:
        """Cosine, in [−1, 1], of every text with its image: `texts[i]` go with `images[i]`.

        A text longer than the model's context is judged by its beginning.
        """
        flat = [text for several in texts for text in several]
        if not flat:
            return [[] for _ in texts]
        images_embedded = self._unit(self._model.get_image_features(**self._pixels(images)))  # [N, E]
        texts_embedded = self._unit(self._model.get_text_features(**self._tokens(flat)))  # [T, E]
        owners = torch.tensor([i for i, several in enumerate(texts) for _ in several], device=texts_embedded.device)
        cosine = iter((images_embedded[owners] * texts_embedded).sum(-1).tolist())
        return [[next(cosine) for _ in several] for several in texts]

    def _pixels(self, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        made = self._images(images=list(images), return_tensors="pt")
        return {"pixel_values": made["pixel_values"].to(self._device, self._model.dtype)}

    def _tokens(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        made = self._tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self._max_length, return_tensors="pt"
        )  # SigLIP was trained on texts padded to the full length
        return {name: made[name].to(self._device) for name in ("input_ids", "attention_mask") if name in made}

    @staticmethod
    def _unit(features: Any) -> torch.Tensor:
        """Rows of length one, of a tensor or of a model output that pools."""
        pooled = features if isinstance(features, torch.Tensor) else features.pooler_output
        return torch.nn.functional.normalize(pooled.float(), dim=-1)


@functools.lru_cache(maxsize=1)
def open_scorer(folder: Path) -> ImageTextScorer:
    """Loaded once per process."""
    return ImageTextScorer(folder)
