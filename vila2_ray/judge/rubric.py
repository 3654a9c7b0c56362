"""What judges are asked of two captions of one image, criterion by criterion, the same of people and of models."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vila2_ray.errors import ConfigError


@dataclass(frozen=True)
class Criterion:
    """One question about two captions; the answer is one of them, or that they are equal."""

    name: str
    asks: str
    """Follows "Which caption …"."""
    hint: str
    """What counts, and what does not."""


_ALL = (
    Criterion(
        "hallucination",
        "says less that is not in the picture?",
        "Count things, words, places, numbers and doings that the picture does not show. What is left out does not "
        "count here.",
    ),
    Criterion(
        "detail",
        "tells more of what is in the picture?",
        "Count what is right: things, how they look, where they are, what is written. Length alone is no detail.",
    ),
    Criterion(
        "fluency",
        "reads better?",
        "Grammar, clear sentences, nothing said twice, a proper end. Whether it is true does not count here.",
    ),
    Criterion(
        "overall",
        "would you rather teach a model with?",
        "All taken together; something that is not there weighs more than something left out.",
    ),
)
CRITERIA = {criterion.name: criterion for criterion in _ALL}


def criteria(names: Iterable[str]) -> tuple[Criterion, ...]:
    """The criteria by name, in this order. Raises ConfigError for a name that is none."""
    found = []
    for name in names:
        if name not in CRITERIA:
            raise ConfigError("criteria", name, f"take some of {', '.join(CRITERIA)}")
        found.append(CRITERIA[name])
    return tuple(found)
