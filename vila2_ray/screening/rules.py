"""What screening can say against a sample, and the rules that need nothing but the picture's size."""

from __future__ import annotations

from enum import Enum

from vila2_ray.config import ScreenConfig


class Flag(str, Enum):
    """Why a sample is neither captioned nor trained on nor exported."""

    MIN_SIDE = "min_side"
    MAX_ASPECT = "max_aspect"
    HELDOUT = "heldout"
    """The picture, or one much like it, is in the held-out corpus or on a list of held-out hashes."""
    DUPLICATE = "duplicate"
    """The same bytes as a sample before it."""
    NEAR_DUPLICATE = "near_duplicate"
    """Looks like a sample before it."""
    TAKEDOWN = "takedown"
    """On the takedown list. Never written to a file of verdicts: the list is read when it is needed."""


AMONG_SAMPLES = (Flag.DUPLICATE.value, Flag.NEAR_DUPLICATE.value)
"""Flags that depend on other samples of the corpus, in the order in which they stand in a verdict."""


def size_flags(width: int, height: int, config: ScreenConfig) -> list[str]:
    """Flags of a picture of `width` × `height` pixels, upright; a limit of 0 is no limit."""
    short, long = sorted((width, height))
    flags = []
    if short < config.min_side:
        flags.append(Flag.MIN_SIDE.value)
    if config.max_aspect and long > config.max_aspect * short:
        flags.append(Flag.MAX_ASPECT.value)
    return flags
