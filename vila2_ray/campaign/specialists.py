"""What became of a campaign's specialists, as its markers tell: who beat the generalist, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping

from vila2_ray.campaign.state import Marker
from vila2_ray.config import Config, SkillName

LEFT_OUT = "left_out"
"""Of a stage's summary, true: nothing was made, for the `reason` beside it."""


def is_left_out(marker: Marker) -> bool:
    """Whether a stage ended without making anything: its specialist does not beat the generalist."""
    return marker.summary.get(LEFT_OUT) is True


def beats(markers: Mapping[str, Marker], skill: str) -> bool | None:
    """Whether a specialist is better at its skill than the generalist; None before both are scored."""
    marker = markers.get(f"evaluate-{skill}")
    return None if marker is None else bool(marker.summary["beats"])


def kept_skills(config: Config, markers: Mapping[str, Marker]) -> list[SkillName]:
    """Skills whose specialist's captions are trained on, in the order of the configuration."""
    return [skill for skill in config.specialists if beats(markers, skill)]


def final_is_needed(config: Config, markers: Mapping[str, Marker]) -> bool | None:
    """Whether there is anything to teach a final model; None as long as that is not known."""
    outcomes = [beats(markers, skill) for skill in config.specialists]
    if any(outcomes):
        return True
    return None if None in outcomes else False
