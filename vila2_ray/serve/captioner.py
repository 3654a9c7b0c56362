"""What the app asks: the one seam between HTTP and whatever answers, in this process or on a cluster. Pure."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal, Protocol

from vila2_ray.config import SamplingConfig
from vila2_ray.engines.live import Piece, Turn

State = Literal["serving", "loading", "failed"]


@dataclass(frozen=True)
class Served:
    """A checkpoint, as answers name it."""

    name: str
    """By which requests ask for it: `promoted`, or a model's or a skill's name."""
    model: str
    """Its name in the campaign, for example `vlm-1`."""
    digest: str
    """sha256 of its weights, hexadecimal."""
    skill: str = ""
    """Of a specialist; empty for a generalist."""
    engine: str = ""
    """Which engine and version answers, for example `vllm 0.29.0`."""
    since: float = 0.0
    """Unix time from when it has been served."""

    @property
    def label(self) -> str:
        """Model and weights in one word: `vlm-1@0123456789ab`."""
        return f"{self.model}@{self.digest[:12]}"


@dataclass(frozen=True)
class Standing:
    """How one served name stands."""

    name: str
    state: State
    """serving: answers, perhaps still with the checkpoint before. loading: nothing answers yet. failed: nothing does,
    and the newest try to load failed."""
    served: Served | None = None
    """What answers now."""
    detail: str = ""
    """For people: what is being loaded, why a load failed, that an operator pinned it."""


@dataclass(frozen=True)
class Question:
    """One image, one conversation, one answer wanted."""

    key: str
    """Of this question, unique; in logs and as X-Request-Id."""
    name: str
    """Which `Served.name` is to answer."""
    image: bytes
    """As it came, encoded, within the bounds of the app; the captioner decodes it."""
    image_key: str
    """sha256 of `image`, hexadecimal."""
    turns: tuple[Turn, ...]
    sampling: SamplingConfig
    seed: int
    streamed: bool
    with_logprobs: bool = False


@dataclass(frozen=True)
class Said:
    """A piece of an answer, with who says it: the same for all pieces of one answer."""

    piece: Piece
    by: Served


class Captioner(Protocol):
    """Answers questions about images. The app holds one for its lifetime."""

    async def start(self) -> None:
        """Begin to load; returns soon. What loads is seen by `standing`."""

    def standing(self) -> tuple[Standing, ...]:
        """Every name that is served or is to be, the one that questions get by default first. Cheap: no I/O."""

    def answer(self, question: Question) -> AsyncGenerator[Said, None]:
        """Pieces until one has a finish_reason. Closing the generator, or cancelling who reads it, ends the work.

        Raises SampleError for a bad image or a conversation that does not fit, UnknownModel for a name that is not
        served, NotReady while nothing answers for it, Overloaded when too many wait, EngineDied when the engine died of
        it twice.
        """

    async def close(self) -> None:
        """Free everything."""
