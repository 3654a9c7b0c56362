"""Campaign folders whose checkpoints are fakes: each says its model's name, and behaves as it is told to."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from vila2_ray.campaign.promotion import promote
from vila2_ray.campaign.serving import Target
from vila2_ray.campaign.state import Marker, write_marker
from vila2_ray.config import SamplingConfig
from vila2_ray.engines.fake import fake_caption, pixels_digest
from vila2_ray.engines.live import Turn
from vila2_ray.recipe import load_config, to_yaml
from vila2_ray.serve.captioner import Question
from vila2_ray.serve.configuring import Setup, setup
from vila2_ray.storage import Store

OVERRIDES = ("recaption.engine.name=fake", "serve.poll_seconds=0.2", "serve.load_timeout_seconds=300")


class FakeCampaign:
    """A folder that an endpoint can follow."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self.folder = folder
        self.store.write_text("campaign.yaml", to_yaml(load_config("")))

    def train(self, about: str, model: str, **behaviour: Any) -> Target:
        """A checkpoint that behaves so; trained again, it is another one."""
        where = f"checkpoints/{model}/sft"
        told = json.dumps({"signature": f"by {model}", **behaviour})
        self.store.write_text(f"{where}/fake.json", told)
        digest = hashlib.sha256(f"{model} {told}".encode()).hexdigest()
        write_marker(self.store, Marker(f"sft-{about}", "f", {}, {}, digest, 1))
        return Target(model, where, digest)

    def promote(self, about: str, **behaviour: Any) -> Target:
        """Train `vlm-<about>` and promote it."""
        target = self.train(about, f"vlm-{about}", **behaviour)
        promote(self.store, target.model, target.checkpoint, target.digest, {}, 1)
        return target

    def setup(self, *overrides: str) -> Setup:
        return setup(self.store.uri, (*OVERRIDES, *overrides))


def picture(number: int) -> bytes:
    """A PNG unlike those of other numbers."""
    out = io.BytesIO()
    Image.new("RGB", (16 + number % 7, 16), (number * 37 % 256, number * 91 % 256, number * 53 % 256)).save(out, "PNG")
    return out.getvalue()


def ask(
    number: int, name: str = "promoted", streamed: bool = False, prompt: str = "tell", max_tokens: int = 64
) -> Question:
    data = picture(number)
    sampling = SamplingConfig(max_tokens=max_tokens)
    key = f"{name}-{number}-{streamed}"
    return Question(key, name, data, hashlib.sha256(data).hexdigest(), (Turn("user", prompt),), sampling, 0, streamed)


def right(number: int, model: str, prompt: str = "tell") -> str:
    """What `model` says of a picture."""
    with Image.open(io.BytesIO(picture(number))) as image:
        digest = pixels_digest(image.size, image.convert("RGB").tobytes())
    return fake_caption(digest, prompt, signature=f"by {model}")
