"""A campaign: all rounds over one corpus, index to report. `Campaign` looks at one; `runner.run` carries one on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vila2_ray.campaign.api import Campaign

__all__ = ["Campaign"]


def __getattr__(name: str) -> object:
    if name == "Campaign":
        from vila2_ray.campaign.api import Campaign

        return Campaign
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
