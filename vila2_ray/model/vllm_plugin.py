"""What vLLM's plugin entry point calls in every process that it starts: `vila` becomes an architecture of vLLM's."""

from __future__ import annotations

import importlib.util
import sys


def register() -> None:
    """Make vLLM and its transformers know `vila`. May be called any number of times; loads no model code yet."""
    from vllm import ModelRegistry

    from vila2_ray.engines.orphans import end_with_parent
    from vila2_ray.model.registration import register as register_with_transformers

    end_with_parent()
    read_images_without_torchvision()
    register_with_transformers()
    room = "vila2_ray.model.vllm_model"
    ModelRegistry.register_model("VilaForConditionalGeneration", f"{room}:VilaForConditionalGeneration")
    ModelRegistry.register_model("LlavaForConditionalGeneration", f"{room}:LlavaOfTransformers5")


def read_images_without_torchvision() -> None:
    """vLLM's LLaVA imports Pixtral's torchvision image processor; where there is none, its PIL twin stands in."""
    if importlib.util.find_spec("torchvision") is None:
        from transformers.models.pixtral import image_processing_pil_pixtral

        sys.modules.setdefault("transformers.models.pixtral.image_processing_pixtral", image_processing_pil_pixtral)
