"""A checkpoint folder of random weights, and requests."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

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
        images = [Image.effect_noise((40, 28), 20 + 7 * n).convert("RGB") for n in range(number)]
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
