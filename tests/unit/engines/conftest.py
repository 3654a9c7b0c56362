"""A checkpoint folder of random weights, and requests."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.unit.engines.tiny_vila import write_vila
from vila2_ray.config import SamplingConfig
from vila2_ray.engines.base import GenerationRequest

MakeRequests = Callable[..., list[GenerationRequest]]


@pytest.fixture(scope="session")
def vila_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vila(tmp_path_factory.mktemp("vila"))


@pytest.fixture(scope="session")
def make_requests() -> MakeRequests:
    """`make_requests(number, prompts=…, **sampling)`: that many images, each asked with every prompt."""

    def make(number: int, prompts: tuple[str, ...] = ("describe",), **sampling: float) -> list[GenerationRequest]:
        settings = SamplingConfig(**{"max_tokens": 12, **sampling})  # type: ignore[arg-type]
        # PIL's own noise is the process's: other images after other tests, and now and then two words that tie
        noises = [np.random.default_rng(n).normal(128, 20 + 7 * n, (28, 40)) for n in range(number)]
        images = [Image.fromarray(noise.clip(0, 255).astype("uint8")).convert("RGB") for noise in noises]
        tinted = [
            Image.blend(im, Image.new("RGB", im.size, (n * 37 % 256, n * 91 % 256, 60)), 0.6)
            for n, im in enumerate(images)
        ]
        digests = [sha256(image.tobytes()).hexdigest() for image in tinted]
        return [
            GenerationRequest((n, k), digests[n], tinted[n], prompt, 1000 * n + k, settings)
            for n in range(number)
            for k, prompt in enumerate(prompts)
        ]

    return make
