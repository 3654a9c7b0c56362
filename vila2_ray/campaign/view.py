"""One driver's view of a campaign: corpora, layers and digests, looked up once; and the cluster that it works on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from vila2_ray import logs
from vila2_ray.campaign import plan as plans
from vila2_ray.campaign.layout import Layout, base_folder
from vila2_ray.campaign.screening import open_screening, screened_sources
from vila2_ray.campaign.specialists import kept_skills
from vila2_ray.campaign.state import Marker
from vila2_ray.captions.prompts import Prompts
from vila2_ray.captions.votes import Votes, counting, renamed
from vila2_ray.config import Config, RecaptionConfig, SkillName
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.layers import Layer
from vila2_ray.corpus.screening import Screening, lists_digest
from vila2_ray.corpus.shardfiles import ShardFiles
from vila2_ray.corpus.verdicts import Verdicts
from vila2_ray.judge.export import read_judgements
from vila2_ray.progress import Progress
from vila2_ray.raytasks import spread
from vila2_ray.storage import Store

if TYPE_CHECKING:
    import pyarrow as pa

    from vila2_ray.train.job import TrainingSource

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Done(NamedTuple):
    """What a stage leaves for its marker."""

    digest: str
    summary: dict[str, Any]
    seconds: float


class Wording(NamedTuple):
    """What decides a layer's prompts, seeds and share beside the plan that they are hashed with."""

    config: RecaptionConfig
    prompts: Prompts
    plan_key: str
    fraction: float


@dataclass
class Run:
    """One driver's view of one campaign; corpora and digests are looked up once."""

    config: Config
    markers: dict[str, Marker]
    progress: Progress
    epoch: int
    check_lease: Callable[[], None]
    """Raises LeaseLost when another driver has taken the campaign over."""
    best_round: int = 0
    _corpora: dict[str, Corpus] = field(default_factory=dict)
    _base_digest: str = ""
    _judgements: pa.Table | None = None

    @property
    def layout(self) -> Layout:
        return Layout(Store(self.config.campaign))

    @property
    def prompts(self) -> Prompts:
        return Prompts(self.config.recaption.prompt_ids, self.config.recaption.prompts)

    def wording(self, stage: plans.Stage) -> Wording:
        """How the layer of a recaption stage is asked for."""
        config = self.config.recaption
        if skill := stage.specialist:
            settings = self.config.skills
            sampling = replace(config.sampling, max_tokens=settings.of(skill).max_tokens)
            config = replace(config, prompt_ids=settings.prompt_ids(skill), num_variants=1, sampling=sampling)
        fraction = 1.0 if stage.round is None else self.config.rounds.fraction
        prompts = Prompts(config.prompt_ids, config.prompts)
        return Wording(config, prompts, f"{self.config.seed}:{stage.layer}", fraction)

    def corpus(self, source: str) -> Corpus:
        """One of the campaign's corpora; `ocr.data` is what build-ocr has made where nothing is configured."""
        if source not in self._corpora:
            skill, _, part = source.partition(".")
            if part == "data" and not self.config.corpus_uri(source):
                built = self.markers[f"build-{skill}"].fingerprint
                self._corpora[source] = self.layout.conversations(skill, built).corpus(source, self.config)
            else:
                self._corpora[source] = self.layout.corpus(source, self.config)
        return self._corpora[source]

    def base_digest(self) -> str:
        from vila2_ray.model.loading import checkpoint_digest

        if not self._base_digest:
            self._base_digest = checkpoint_digest(base_folder(self.config))
        return self._base_digest

    def covered_by(self, stage: plans.Stage) -> str:
        """Digest of the corpora that a stage covers shard by shard, so that added shards do not redo the others."""
        if stage.kind == "screen":
            return " ".join(self.corpus(source).digest() for source in screened_sources(self.config))
        return self.corpus("pretrain").digest() if stage.kind == "recaption" else ""

    def heldout_hashes_digest(self) -> str:
        return lists_digest(self.config.screen.heldout_hashes)

    def screening(self, source: str) -> Screening | None:
        """What is left out of a corpus as of now; None where nothing can be."""
        return open_screening(self.layout, self.config, self.markers, self.corpus(source))

    def training_source(
        self,
        name: str,
        layers: list[tuple[Layer, Verdicts | None]],
        specialists: list[tuple[str, Layer, Verdicts | None]],
    ) -> TrainingSource:
        """A source as a stage trains on it; `layers` and `specialists` are of corpus.pretrain."""
        from vila2_ray.train.job import TrainingSource
        from vila2_ray.train.packplan import Share

        told = self.config.corpus_source(name)
        share, is_own = Share(told.weight, told.repeat), name == "pretrain"
        of_layers = (layers, self.screening(name), specialists) if is_own else ([], self.screening(name), [])
        return TrainingSource(self.corpus(name), told.kind, share, *of_layers)

    def scorer_digest(self) -> str:
        from vila2_ray.model.loading import checkpoint_digest

        return checkpoint_digest(Store(self.config.pick.scorer).local_folder())

    @property
    def latest_round(self) -> int:
        """The last round whose layer has been judged, which the full pass goes on from; 0: none."""
        return max((k for k in range(1, self.config.rounds.max + 1) if f"filter-{k}" in self.markers), default=0)

    def votes(self, stage: plans.Stage) -> Votes | None:
        """What raters say of the captions that a filter stage judges; None where they say nothing of them.

        A specialist's captions are not chosen among: of them edits count alone. What the full pass has taken over from
        the latest round is the same caption, and so is what is said of it.
        """
        config = self.config.pick
        if not config.votes:
            return None
        if self._judgements is None:
            self._judgements = read_judgements(config.votes)
        layers = plans.layers_judged(self.config, stage.layer)
        criterion = "" if stage.specialist else config.criterion
        told = (
            renamed(self._judgements, f"round-{self.latest_round}", "full") if layers == ("full",) else self._judgements
        )
        return counting(told, layers, criterion, config.raters, config.votes)

    def boxes_digest(self, skill: SkillName) -> dict[str, str]:
        """`boxes` → digest of a skill's annotations or detector; of the OCR engine only its version is known, and
        that is recorded, not hashed.
        """
        if skill == "ocr":
            return {}
        from vila2_ray.experts.choice import choose_expert

        return {"boxes": choose_expert(skill, self.config.skills.of(skill)).version}

    def captions(self, layer: str) -> Layer:
        """A finished layer, or the retried one that the configuration puts in its place."""
        marker = self.markers[plans.captions_of(self.config, layer)]
        return self.layout.layer(self.config.layers.get(layer, layer), marker.fingerprint)

    def layers(self, layer: str) -> list[tuple[Layer, Verdicts | None]]:
        """What is trained on where a layer is: it and what goes with it, and what its filter stage thinks of them."""
        judged = self.markers[f"filter-{layer.removeprefix('round-')}"].fingerprint
        names = plans.layers_judged(self.config, layer)
        return [(self.captions(name), self.layout.verdicts(name, judged)) for name in names]

    def specialists(self) -> list[tuple[str, Layer, Verdicts | None]]:
        """Skill, layer and verdicts of the specialists that beat the generalist."""
        return [
            (skill, layer, verdicts)
            for skill in kept_skills(self.config, self.markers)
            for layer, verdicts in self.layers(skill)
        ]


def connect_ray() -> None:
    """Join the cluster that RAY_ADDRESS names (a job's own), or start one in this process."""
    import os

    import ray

    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS") or "local"
        options: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
        if logs.is_json():  # in every worker, too
            options["logging_config"] = ray.LoggingConfig(encoding="JSON", additional_log_standard_attrs=["name"])
        ray.init(address=address, log_to_driver=False, logging_level="warning", **options)
        logs.hand_over()


def ray_map(function: Callable[[_Item], _Result], items: Iterable[_Item], num_cpus: float = 1.0) -> Iterable[_Result]:
    """`function` of each item on the cluster, a bounded number at a time, results as they come."""
    if not (items := list(items)):
        return  # a finished campaign starts no cluster
    connect_ray()
    yield from spread(function, items, num_cpus=num_cpus)


def digest_of(files: ShardFiles, fingerprint: str) -> str:
    """Of finished shard files, from one listing: which shards there are; the fingerprint tells what is in them."""
    names = "\n".join(f"{source}/{shard}" for source, shard in files.shards())
    return hashlib.sha256(f"{fingerprint}\n{names}".encode()).hexdigest()
