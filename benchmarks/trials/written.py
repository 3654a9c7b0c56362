"""Captions of scenes that no model saw: composed, written by a campaign's model, kept, each with its truth."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from vila2_ray.campaign import Campaign
from vila2_ray.captions.prompts import Prompts, seed
from vila2_ray.config import SamplingConfig
from vila2_ray.engines.base import GenerationRequest, generate_all
from vila2_ray.engines.choice import open_engine
from vila2_ray.recipes.tiny.corpus import sample
from vila2_ray.recipes.tiny.world import Truth, alt_text
from vila2_ray.storage import Store

PROMPT_ID = "detailed"


@dataclass(frozen=True)
class Scene:
    """A held-out scene: composition, background, artwork and plates are of the kind that training never sees."""

    number: int
    encoded: bytes
    media_type: str
    truth: Truth
    alt_text: str
    """As the pretraining split would have it: held-out samples come without."""

    def image(self) -> Image.Image:
        return Image.open(io.BytesIO(self.encoded)).convert("RGB")


@dataclass(frozen=True)
class Written:
    """One caption of a scene."""

    scene: int
    variant: int
    """0 is greedy, as the tiny recipe writes them; the others are drawn."""
    text: str
    finish_reason: str
    mean_logprob: float
    min_logprob: float

    def row(self) -> dict[str, Any]:
        """Its columns of a caption layer."""
        return asdict(self)


def compose_scenes(seed: int, num: int) -> list[Scene]:
    """The first `num` scenes of a seed, always the same."""
    scenes = []
    for number in range(num):
        members = sample("heldout", seed, number)
        truth = json.loads(members["truth.json"])
        extension = "png" if "png" in members else "jpg"
        alt = alt_text(truth, random.Random(f"judges/{seed}/{number}"))
        media_type = "image/png" if extension == "png" else "image/jpeg"
        scenes.append(Scene(number, members[extension], media_type, truth, alt))
    return scenes


def checkpoint(campaign: Campaign, model: str) -> Path:
    """The folder of `promoted`, or of a model's finished SFT."""
    if model != "promoted":
        return campaign.layout.checkpoint(model, "sft").local_folder()
    current = campaign.promoted()["current"]
    if current is None:
        raise SystemExit(f"{campaign.uri} has promoted nothing: name a model, for example --model vlm-0")
    return Store(f"{campaign.uri}/{current['checkpoint']}").local_folder()


def prompt(campaign: Campaign) -> str:
    """What every caption is asked by."""
    config = campaign.config.recaption
    return Prompts(config.prompt_ids, config.prompts).text(PROMPT_ID)


def write(
    campaign: Campaign, model: str, scenes: Sequence[Scene], drawn: int, temperature: float, kept: Path
) -> list[Written]:
    """A greedy caption and `drawn` sampled ones of each scene, in order; read back from `kept` where they lie there."""
    if kept.is_file():
        return [Written(**row) for row in json.loads(kept.read_text())]
    config = campaign.config.recaption
    asked = prompt(campaign)
    requests = []
    for scene in scenes:
        image, name = scene.image(), f"{scene.number}"
        for variant in range(1 + drawn):
            sampling = SamplingConfig(temperature if variant else 0.0, 1.0, config.sampling.max_tokens)
            chance = seed("judges", name, variant)
            requests.append(GenerationRequest((scene.number, variant), name, image, asked, chance, sampling))
    requests.sort(key=lambda request: request.sampling.temperature)  # those of one sampling together
    engine = open_engine(config.engine, checkpoint(campaign, model), **config.engine_settings)
    try:
        answers = generate_all(engine, requests)
    finally:
        engine.close()
    found = [
        Written(int(a.key[0]), int(a.key[1]), a.text, a.finish_reason, a.mean_logprob, a.min_logprob)
        for a in sorted(answers, key=lambda answer: (int(answer.key[0]), int(answer.key[1])))
    ]
    kept.write_text(json.dumps([caption.row() for caption in found]))
    return found
