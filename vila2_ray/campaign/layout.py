"""Where things lie in a campaign folder; the only file that knows."""

from __future__ import annotations

from pathlib import Path

from vila2_ray.config import Config
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.hookverdicts import HookVerdicts
from vila2_ray.corpus.layers import Layer, Parts
from vila2_ray.corpus.screening import ImageVerdicts, Takedowns
from vila2_ray.corpus.verdicts import Verdicts
from vila2_ray.errors import CheckpointError, ConfigError
from vila2_ray.judge.study import Study
from vila2_ray.storage import Store


class Layout:
    """Names the folders of one campaign. Fingerprints stand in paths by their first eight characters."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @property
    def index(self) -> Store:
        return self.store.sub("index")

    def corpus(self, source: str, config: Config) -> Corpus:
        """One of the campaign's corpora. Raises ConfigError where its path is not set."""
        uri, told = config.corpus_uri(source), config.corpus_source(source)
        if not uri:
            name = f"skills.{source}" if "." in source else f"corpus.{source}"
            raise ConfigError(name, uri, "name a folder or glob of shards")
        columns, max_pixels = config.corpus.columns, config.corpus.max_pixels
        return Corpus.open(uri, source, self.index, columns, max_pixels, told.kind, told.images)

    def layer(self, layer: str, fingerprint: str) -> Layer:
        return Layer(self.store.sub("captions", layer, fingerprint[:8]))

    def parts(self, layer: str, fingerprint: str) -> Parts:
        return Parts(self.store.sub("parts", layer, fingerprint[:8]))

    def verdicts(self, layer: str, fingerprint: str) -> Verdicts:
        return Verdicts(self.store.sub("verdicts", layer, fingerprint[:8]))

    def images(self, fingerprint: str) -> ImageVerdicts:
        """What screening found of every sample."""
        return ImageVerdicts(self.store.sub("verdicts", "images", fingerprint[:8]))

    def screening_work(self, fingerprint: str) -> Store:
        """What lies between the passes of a screening."""
        return self.store.sub("parts", "images", fingerprint[:8])

    def hook_verdicts(self, hook: str, fingerprint: str) -> HookVerdicts:
        """What an export hook says of every sample."""
        return HookVerdicts(self.store.sub("verdicts", f"release-{hook}", fingerprint[:8]))

    def evaluation_images(self, fingerprint: str) -> ImageVerdicts:
        """Samples compared with evaluation images, for an export."""
        return ImageVerdicts(self.store.sub("verdicts", "release-evaluation", fingerprint[:8]))

    def study(self, name: str) -> Study:
        """Pairs of captions and what is said of them."""
        return Study(self.store.sub("judgements", name))

    def takedowns(self, uri: str) -> Takedowns:
        """Every takedown list that the campaign has seen, the one at `uri` (it may be "") as it is now included."""
        return Takedowns.look(self.store.sub("takedown"), uri)

    def conversations(self, skill: str, fingerprint: str) -> Conversations:
        """What a build stage makes."""
        return Conversations(self.store.sub("conversations", skill, fingerprint[:8]))

    def packs(self, model: str, stage: str, fingerprint: str) -> Store:
        return self.store.sub("packs", f"{model}-{stage}", fingerprint[:8])

    def training(self, model: str, stage: str, fingerprint: str) -> Store:
        return self.store.sub("training", model, stage, fingerprint[:8])

    def tracking(self, model: str, stage: str) -> Store:
        return self.store.sub("metrics", f"{model}-{stage}")

    def checkpoint(self, model: str, stage: str) -> Store:
        return self.store.sub("checkpoints", model, stage)

    def drift(self, layer: str) -> str:
        """Name of a layer's drift figures, kept whether they stopped the campaign or not."""
        return f"metrics/{layer}-drift.json"

    def evaluation(self, model: str) -> str:
        """Name of the per-sample records of a model's held-out scoring."""
        return f"metrics/{model}-heldout.parquet"

    def benchmarks(self, model: str = "") -> Store:
        """Benchmark results of a model; of its pretrain-stage checkpoint under `<model>-pretrain`; "": of all."""
        return self.store.sub("metrics", "benchmarks", *([model] if model else []))

    def skill_evaluation(self, model: str, skill: str) -> str:
        """Name of the per-sample records of a model's scoring on a skill."""
        return f"metrics/{model}-{skill}.parquet"


class Conversations:
    """A specialist's finetuning conversations: Parquet shards, and their index beside them."""

    def __init__(self, store: Store) -> None:
        self.shards, self.index = store.sub("shards"), store.sub("index")

    def corpus(self, source: str, config: Config) -> Corpus:
        """They as a corpus called `source`. Raises CorpusError where there are none."""
        return Corpus.open(self.shards.uri, source, self.index, None, config.corpus.max_pixels, "chat")


def base_folder(config: Config) -> Path:
    """The base weights' folder. Raises ConfigError or CheckpointError where there is none."""
    name = config.base.checkpoint
    if not name:
        raise ConfigError("base.checkpoint", name, "name a Hugging Face folder of base weights, or recipe:tiny")
    if name.startswith("recipe:"):
        from importlib import resources

        folder = Path(str(resources.files("vila2_ray.recipes"))) / name.removeprefix("recipe:") / "base"
    else:
        folder = Store(name).local_folder()
    if not (folder / "config.json").is_file():
        raise CheckpointError(str(folder), "no config.json there", "base.checkpoint must be a Hugging Face folder")
    return folder
