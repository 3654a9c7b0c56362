"""What an endpoint is made of: a campaign, its configuration, and what the command line changes of it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vila2_ray.captions.prompts import Prompts
from vila2_ray.config import Config
from vila2_ray.config.serving import ServeConfig
from vila2_ray.errors import ConfigError
from vila2_ray.recipe import load_config
from vila2_ray.serve.following import Bounds
from vila2_ray.serve.states import Version
from vila2_ray.serve.wishes import Wish, look
from vila2_ray.serve.wording import default_prompt
from vila2_ray.serve.worker import WorkerSpec
from vila2_ray.storage import Store

_TAKEN = ("serve.", "recaption.engine.", "recaption.quantization", "recaption.processor", "recaption.prompts")
_NAME = re.compile(r"[a-z0-9]([a-z0-9_.]|-(?!-))*")


@dataclass(frozen=True)
class Setup:
    """Everything that its parts on a cluster need; pickles."""

    campaign: str
    """URI."""
    config: Config

    @property
    def settings(self) -> ServeConfig:
        return self.config.serve

    @property
    def bounds(self) -> Bounds:
        return Bounds(self.settings.load_timeout_seconds)

    @property
    def shares_process(self) -> bool:
        """Whether the engine runs in the process that listens, without Ray."""
        wanted, settings = self.settings.process, self.settings
        fits = len(settings.models) == 1 and settings.max_replicas == 1
        if wanted == "shared" and not fits:
            remedy = "one process holds one replica of one model: take serve.process=own, or auto"
            raise ConfigError("serve.process", wanted, remedy)
        return wanted == "shared" or (wanted == "auto" and fits and not self.config.recaption.engine.gpus_per_actor)

    def prompts(self) -> Prompts:
        return Prompts(custom=self.config.recaption.prompts)

    def look(self) -> tuple[Wish, ...]:
        """What is wished now. Raises StorageError."""
        return look(Store(self.campaign), self.settings.models)

    def worker(self, version: Version) -> WorkerSpec:
        """What one replica of a version needs."""
        recaption, settings = self.config.recaption, self.settings
        folder = Store(self.campaign).sub(*version.target.checkpoint.split("/")).uri
        told, prompts = dict(recaption.engine_settings), self.prompts()
        smoke = prompts.text(default_prompt(prompts, version.target.skill))
        return WorkerSpec(version, folder, recaption.engine, told, settings.max_waiting, settings.max_pixels, smoke)


def setup(campaign: str, overrides: Sequence[str] = ()) -> Setup:
    """Of a campaign as its last driver resolved it, with `key=value` on top.

    Raises ConfigError for a folder that is no campaign and for fields that serving does not read, StorageError.
    """
    store = Store(campaign)
    if not store.exists("campaign.yaml"):
        raise ConfigError("campaign", store.uri, "there is no campaign here yet; start one with vila2 run")
    for item in overrides:
        if not item.startswith(_TAKEN):
            remedy = f"serving reads {', '.join(name + '*' * name.endswith('.') for name in _TAKEN)} only"
            raise ConfigError("override", item, remedy)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "campaign.yaml")
        file.write_text(store.read_text("campaign.yaml"), "utf-8")
        config = load_config(str(file), list(overrides))
    for name in config.serve.models:
        if not _NAME.fullmatch(name):
            raise ConfigError("serve.models", name, "name promoted, a model such as vlm-0, or a skill such as ocr")
    if config.serve.keys:  # workers run in other folders
        config = replace(config, serve=replace(config.serve, keys=str(Path(config.serve.keys).expanduser().resolve())))
    return Setup(store.uri, config)
