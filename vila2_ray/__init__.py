"""VILA²: a vision-language model recaptions its own pretraining corpus and is trained again, round after round.

>>> from vila2_ray import Campaign
>>> Campaign("runs/tiny").layer("round-1").to_pandas()      # doctest: +SKIP

Importing this package loads neither torch, ray nor vllm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vila2_ray.campaign import Campaign

__version__ = "0.1.0"
__all__ = ["Campaign", "__version__"]


def __getattr__(name: str) -> object:
    if name == "Campaign":
        from vila2_ray.campaign import Campaign

        return Campaign
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
