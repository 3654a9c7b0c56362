"""Makes transformers' Auto classes know `vila`, so that its checkpoints need no remote code."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

from vila2_ray.model.configuration import VilaConfig
from vila2_ray.model.modeling import VilaForConditionalGeneration, VilaModel


def register() -> None:
    """Register `vila` with the Auto classes. May be called any number of times."""
    from transformers.models.llava.processing_llava import LlavaProcessor

    AutoConfig.register("vila", VilaConfig, exist_ok=True)
    AutoModel.register(VilaConfig, VilaModel, exist_ok=True)
    AutoModelForImageTextToText.register(VilaConfig, VilaForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(VilaConfig, LlavaProcessor, exist_ok=True)
