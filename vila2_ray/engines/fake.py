"""An engine without a model: deterministic, fast, able to fail in every way that a real one can; for tests at scale."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from vila2_ray.engines.base import Generation, GenerationRequest, Key
from vila2_ray.errors import EngineDied, Reason, SampleError


@dataclass(frozen=True)
class FakeBehaviour:
    """How the fake behaves. `fake.json` in its "checkpoint" folder holds the fields that differ from these."""

    seconds_per_step: float = 0.0
    """While it serves: until a request's first word."""
    seconds_per_token: float = 0.0
    """While it serves: between two words of a request."""
    seconds_to_load: float = 0.0
    """While it serves: until it is open."""
    load_failure: str = ""
    """While it serves: opening it raises CheckpointError for this."""
    signature: str = ""
    """Ends every caption, so that a test can tell which checkpoint said it."""
    fail_image_keys: tuple[str, ...] = ()
    """Requests for these images come back with ENGINE_ERROR; `*` means all."""
    die_image_keys: tuple[str, ...] = ()
    """A step that works on one of these raises EngineDied; `*` means all."""
    die_after_steps: int = 0
    """The step after so many raises EngineDied; 0: never. While it serves: the request after so many."""
    note_aborts: bool = False
    """While it serves: leave a file `aborted-<number>` in the folder for every request that was given up."""
    max_deaths: int = 0
    """So many deaths, over all processes that open this folder, then none; 0: no limit."""
    folder: str = ""
    """Where deaths are counted."""

    @classmethod
    def read(cls, folder: Path) -> FakeBehaviour:
        """Of a folder; the defaults where it holds no fake.json. Raises TypeError for a field that does not exist."""
        file = folder / "fake.json"
        return cls(**json.loads(file.read_text("utf-8")), folder=str(folder)) if file.is_file() else cls()

    def fails(self, image_key: str) -> bool:
        return not {image_key, "*"}.isdisjoint(self.fail_image_keys)

    def kills(self, image_key: str) -> bool:
        return not {image_key, "*"}.isdisjoint(self.die_image_keys)

    def die(self, why: str) -> None:
        """Raise EngineDied, unless there were deaths enough."""
        if self.max_deaths:
            deaths = len(list(Path(self.folder).glob("died-*")))
            if deaths >= self.max_deaths:
                return
            Path(self.folder, f"died-{deaths}").touch()
        raise EngineDied(f"the fake engine dies {why}, as it was told to")


@dataclass
class FakeEngine:
    """Says the image's digest and the prompt, so that a test can tell whose caption it looks at."""

    batch_size: int = 128
    behaviour: FakeBehaviour = field(default_factory=FakeBehaviour)
    name: str = "fake"
    version: str = "1"
    batches_continuously: bool = True
    _pending: dict[Key, GenerationRequest] = field(default_factory=dict, repr=False)
    _num_steps: int = 0

    @property
    def num_pending(self) -> int:
        return len(self._pending)

    def prepare(self, request: GenerationRequest) -> GenerationRequest:
        return request

    def add(self, request: GenerationRequest) -> None:
        if request.key in self._pending:
            raise ValueError(f"a request with key {request.key} is already pending")
        self._pending[request.key] = request

    def step(self) -> list[Generation]:
        batch = list(self._pending.values())[: self.batch_size]
        if self.behaviour.seconds_per_step:
            time.sleep(self.behaviour.seconds_per_step)
        self._num_steps += 1
        if self.behaviour.die_after_steps and self._num_steps > self.behaviour.die_after_steps:
            self.behaviour.die(f"after {self.behaviour.die_after_steps} steps")
        if any(self.behaviour.kills(request.image_key) for request in batch):
            self.behaviour.die("of an image")
        for request in batch:
            del self._pending[request.key]
        return [
            self._answer(request) for request in reversed(batch)
        ]  # any order is allowed, so not the order of adding

    def close(self) -> None:
        self._pending.clear()

    def _answer(self, request: GenerationRequest) -> Generation:
        if self.behaviour.fails(request.image_key):
            return Generation.failed(request.key, fake_problem())
        seed = request.seed if request.sampling.temperature else 0
        words = fake_caption(image_digest(request), request.prompt, seed, self.behaviour.signature).split()
        kept = words[: request.sampling.max_tokens]
        share = fake_share(words)
        return Generation(
            key=request.key,
            text=" ".join(kept),
            finish_reason="stop" if len(kept) == len(words) else "length",
            num_output_tokens=len(kept),
            mean_logprob=-share,
            min_logprob=-2 * share,
        )


def fake_problem() -> SampleError:
    return SampleError(Reason.ENGINE_ERROR, "the fake engine fails here, as it was told to")


def fake_share(words: list[str]) -> float:
    """Of a caption's words a number in [0, 1], from which its log-probabilities are made."""
    return int(hashlib.sha256(" ".join(words).encode()).hexdigest()[:8], 16) / 0xFFFFFFFF


def image_digest(request: GenerationRequest) -> str:
    """First 12 hex digits of the sha256 of the decoded pixels."""
    return pixels_digest(request.image.size, request.image.tobytes())


def pixels_digest(size: tuple[int, int], pixels: bytes) -> str:
    """What the fake engine calls an RGB image of this size [width, height] and these bytes."""
    return hashlib.sha256(f"{size[0]}x{size[1]}".encode() + pixels).hexdigest()[:12]


def fake_caption(digest: str, prompt: str, seed: int = 0, signature: str = "") -> str:
    """What the fake engine says of the image with this pixel digest."""
    said = f"a picture known as {digest} described when asked to {prompt.strip().lower()}"
    drawn = f"{said} draw {seed}" if seed else said
    return f"{drawn} {signature}" if signature else drawn
