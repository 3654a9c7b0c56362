"""The protocol of an engine that serves: a request comes at any moment, and its text goes out while it is made. Pure.

The engines that recaption (`engines.base`) are stepped by their one caller; these run by themselves beside an event
loop. Both decode alike: `SamplingConfig`, one random stream a request, the image before the first user's words.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from vila2_ray.config import SamplingConfig

if TYPE_CHECKING:
    from PIL.Image import Image

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Turn:
    """What one side says in a conversation."""

    role: Role
    text: str
    """Without image placeholder and chat template: the engine adds both."""


@dataclass(frozen=True)
class LiveRequest:
    """One conversation about one image; the model is to say the next turn."""

    key: str
    """Unique among the requests that an engine holds."""
    image: Image
    """RGB, decoded; shown with the first user's turn."""
    image_key: str
    """Equal for equal images, for caches."""
    turns: tuple[Turn, ...]
    """The last one is the user's."""
    sampling: SamplingConfig
    seed: int
    streamed: bool = True
    """Whether pieces are wanted as they are made; false: one piece, the last."""
    with_logprobs: bool = False
    """Whether the last piece is to tell log-probabilities. At every token they cost the engine more than HTTP does."""


@dataclass(frozen=True)
class Piece:
    """What an engine has to say since its piece before."""

    text: str
    """New text; whole characters only. A streamed answer's pieces joined are the text of the one that is not."""
    num_output_tokens: int
    """So far, without the token that ends the turn."""
    finish_reason: str = ""
    """In the last piece alone. stop: the model ended its turn. length: max_tokens cut it."""
    num_prompt_tokens: int = 0
    """Of the conversation as the model read it, image tokens included."""
    mean_logprob: float | None = None
    """In the last piece, where it was asked for: over the output tokens, in the model's own distribution, before
    temperature and top-p."""
    min_logprob: float | None = None


class LiveEngine(Protocol):
    """A model that serves. Its methods belong to the event loop in which it was opened."""

    name: str
    """As provenance records it: vllm, transformers or fake."""
    version: str
    capacity: int
    """Requests that run together; more of them wait in the engine."""

    def generate(self, request: LiveRequest) -> AsyncGenerator[Piece, None]:
        """The answer in pieces. Closing the generator, or cancelling who reads it, ends the work in the engine.

        Raises SampleError for what this request alone is to blame for (an image that the family's processor refuses,
        more tokens than fit the context), EngineDied when the engine cannot go on.
        """

    async def check(self) -> None:
        """Raises EngineDied when the engine cannot go on."""

    async def close(self) -> None:
        """Free what the engine holds; requests still running end with EngineDied. Closing twice does nothing."""
