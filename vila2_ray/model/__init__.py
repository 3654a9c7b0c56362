"""The `vila` architecture (SigLIP tower → space-to-channel connector → Llama-family LM), and loading of checkpoints.

Importing this package loads no torch; names are fetched when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vila2_ray.model.building import build_vila
    from vila2_ray.model.configuration import VilaConfig
    from vila2_ray.model.families import Part, part_of
    from vila2_ray.model.loading import checkpoint_digest, load_model, load_processor
    from vila2_ray.model.modeling import VilaForConditionalGeneration, VilaModel
    from vila2_ray.model.processor import build_processor
    from vila2_ray.model.registration import register

_HOME = {
    "VilaConfig": "configuration",
    "Part": "families",
    "part_of": "families",
    "build_vila": "building",
    "checkpoint_digest": "loading",
    "load_model": "loading",
    "load_processor": "loading",
    "VilaForConditionalGeneration": "modeling",
    "VilaModel": "modeling",
    "build_processor": "processor",
    "register": "registration",
}
__all__ = [
    "Part",
    "VilaConfig",
    "VilaForConditionalGeneration",
    "VilaModel",
    "build_processor",
    "build_vila",
    "checkpoint_digest",
    "load_model",
    "load_processor",
    "part_of",
    "register",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
