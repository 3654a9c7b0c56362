"""The protocol that every generating engine speaks: add requests, step, collect. Pure: no torch, no Ray.

A request carries its `key` through the engine and back, so an answer can never land on another sample, in whatever
order answers come. A request that fails alone comes back as a Generation with its `problem`; an engine that cannot
go on raises EngineDied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from vila2_ray.config import SamplingConfig
from vila2_ray.errors import SampleError

if TYPE_CHECKING:
    from PIL.Image import Image

Key = tuple[str | int, ...]


@dataclass(frozen=True)
class GenerationRequest:
    """One image and one prompt."""

    key: Key
    """Comes back unchanged with the answer; unique among the requests that an engine holds."""
    image_key: str
    """Requests with equal `image_key` show the same image, which is then prepared and encoded once per batch."""
    image: Image
    """RGB, decoded."""
    prompt: str
    """The user's turn, without image placeholder and chat template: the engine adds both."""
    seed: int
    """Of this request's own random stream: a sampled answer does not depend on what else is in the batch."""
    sampling: SamplingConfig
    prepared: Any = field(default=None, repr=False, compare=False)
    """What the engine's `prepare` made of the image; only that engine understands it."""


@dataclass(frozen=True)
class Generation:
    """The answer to one request."""

    key: Key
    text: str
    finish_reason: str
    """stop: the model ended its turn. length: max_tokens cut it. Empty when `problem` is set."""
    num_output_tokens: int
    """Without the token that ends the turn."""
    mean_logprob: float
    """Over the output tokens, the end token included, in the model's own distribution, before temperature and top-p."""
    min_logprob: float
    problem: SampleError | None = None
    """Why this request, tried alone, has no answer."""

    @classmethod
    def failed(cls, key: Key, problem: SampleError) -> Generation:
        return cls(key, "", "", 0, 0.0, 0.0, problem)


class Engine(Protocol):
    """A model that generates. Not thread-safe; one process, one engine."""

    name: str
    """As provenance records it, for example `transformers`."""
    version: str
    batch_size: int
    """Requests that it is worth holding at once."""
    batches_continuously: bool
    """Whether a request takes the place of a finished one at any step. If not, a batch is answered whole, and requests
    that should be batched alike in every run must be given in the same groups."""

    @property
    def num_pending(self) -> int:
        """Requests added and not yet answered."""

    def prepare(self, request: GenerationRequest) -> GenerationRequest:
        """The request with its image work done, for `add`; may run in another thread than the rest. May be left out.

        Raises SampleError when nothing can be made of this image.
        """

    def add(self, request: GenerationRequest) -> None:
        """Take a request. Raises ValueError when its key is already held."""

    def step(self) -> list[Generation]:
        """Work for a while; what was finished, in any order, perhaps nothing. Raises EngineDied."""

    def close(self) -> None:
        """Free what the engine holds; requests still pending are dropped."""


def generate(engine: Engine, requests: Iterable[GenerationRequest]) -> Iterator[Generation]:
    """Answers to `requests`, in any order, exactly one each. Requests are taken as the engine has room for them.

    So an iterable that decodes images as it is read holds few of them in memory. Raises EngineDied.
    """
    source, exhausted, num_added, num_answered = iter(requests), False, 0, 0
    while True:
        while not exhausted and engine.num_pending < engine.batch_size:
            request = next(source, None)
            if request is None:
                exhausted = True
                break
            engine.add(request)
            num_added += 1
        if exhausted and not engine.num_pending:
            break
        answers = engine.step()
        num_answered += len(answers)
        yield from answers
    assert num_answered == num_added, f"{num_added} requests went in, {num_answered} answers came out"


def generate_all(engine: Engine, requests: Sequence[GenerationRequest]) -> list[Generation]:
    """Answers in the order of the requests. Raises ValueError for keys that occur twice, EngineDied."""
    keys = [request.key for request in requests]
    if len(set(keys)) != len(keys):
        raise ValueError("two requests carry the same key")
    answers = {answer.key: answer for answer in generate(engine, requests)}
    return [answers[key] for key in keys]
