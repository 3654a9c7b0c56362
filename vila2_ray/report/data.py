"""What a report says, as plain data: filled by `collect`, drawn by `render`. No Ray, no campaign, no files in here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from vila2_ray.judge.winning import Figures

MISSING = "missing"
"""Status of a caption that its layer does not hold yet; the others are `schema.Status`."""


@dataclass(frozen=True)
class Span:
    """Characters [start, stop) of a text that truth has something to say on."""

    start: int
    stop: int
    kind: Literal["absent", "repeated", "read", "unread"]
    """`absent`: names a thing that is not there. `repeated`: names it more often than it is there. Of printed words,
    `read`: it is in the picture. `unread`: it is not."""


@dataclass(frozen=True)
class DrawnBox:
    """A box that a caption gives, to be drawn over the picture."""

    name: str
    corners: tuple[int, int, int, int]
    """xmin, ymin, xmax, ymax in thousandths of the picture."""
    is_right: bool | None = None
    """Whether a thing of that name is there (intersection over union of at least one half); None: nobody knows."""


@dataclass(frozen=True)
class Told:
    """A relation that a caption states."""

    text: str
    is_right: bool | None = None
    """None: nobody knows, or the boxes leave it open."""


@dataclass(frozen=True)
class Caption:
    """What one layer holds for a sample; the first variant where there are several."""

    layer: str
    status: str
    text: str = ""
    flags: tuple[str, ...] = ()
    """Verdicts that leave this caption out of training."""
    is_edited: bool = False
    """`text` is a person's, trained on in place of the model's."""
    error: str = ""
    error_detail: str = ""
    prompt_id: str = ""
    finish_reason: str = ""
    mean_logprob: float | None = None
    wrong: tuple[Span, ...] = ()
    boxes: tuple[DrawnBox, ...] = ()
    relations: tuple[Told, ...] = ()
    """Boxes and relations of a specialist's caption."""
    is_specialists: bool = False


@dataclass(frozen=True)
class Sample:
    """One sample and everything that was ever written about it."""

    sample_id: str
    alt_text: str
    captions: tuple[Caption, ...]
    thumbnail: bytes = b""
    """PNG or JPEG made by `pictures.thumbnail`; empty when there is no readable image."""
    problem: str = ""
    """Why there is no image."""
    alt_wrong: tuple[Span, ...] = ()
    truth: tuple[str, ...] | None = None
    """What is really in the picture, thing by thing; None where nobody knows."""
    chosen_for: Literal["random", "flagged", "failed"] = "random"
    """Drawn at random from all samples, or added because a caption is flagged or failed."""


@dataclass(frozen=True)
class Words:
    """Words per text: mean and the range that the middle 80 % lie in."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class LayerFacts:
    """Counts over a whole layer, or over `num_shards_read` of its shards where it has very many."""

    name: str
    num_captioned: int = 0
    num_not_selected: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)
    """Reason → number of dead letters."""
    flags: Mapping[str, int] | None = None
    """Flag → number of captions; None before the layer is judged."""
    num_flagged: int = 0
    words: Words | None = None
    num_shards: int = 0
    num_shards_read: int = 0
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Metadata that all of the layer's files agree on."""

    @property
    def num_failed(self) -> int:
        return sum(self.errors.values())


@dataclass(frozen=True)
class LayerDrift:
    """How a layer's captions are, whatever they say: the figures that drift is watched by."""

    name: str
    figures: Mapping[str, float]
    collapses: tuple[str, ...] = ()
    """A sentence for each border that was crossed."""


@dataclass(frozen=True)
class RoundScores:
    """Held-out scores of the model that a round ended with."""

    round: int
    model: str
    values: Mapping[str, float]
    """Without what is not a finite number."""

    def __post_init__(self) -> None:
        finite = {name: value for name, value in self.values.items() if math.isfinite(value)}
        object.__setattr__(self, "values", finite)


@dataclass(frozen=True)
class Specialist:
    """A specialist beside the generalist that it was finetuned from, on its own skill."""

    skill: str
    metric: str
    generalist: float | None
    specialist: float | None
    beats: bool
    """Whether it recaptioned the corpus."""


@dataclass(frozen=True)
class FinalModel:
    """What learned from everything, beside the best round's model."""

    before: str
    """Name of the best round's model."""
    rows: tuple[tuple[str, float | None, float | None], ...]
    """(score, best round's, final model's)."""


@dataclass(frozen=True)
class BenchmarkCell:
    """A score, and the interval that holds 95 % of its bootstrap resamples, where it is known."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Benchmark:
    """What one model reaches on a published benchmark."""

    name: str
    kind: str
    main: str
    """The score that it is known by."""
    cells: Mapping[str, BenchmarkCell]
    num_items: int = 0
    num_failed: int = 0
    num_missing: int = 0
    data: str = ""
    """Digest of its annotation files."""


@dataclass(frozen=True)
class BenchmarkScores:
    """A model's benchmarks."""

    model: str
    benchmarks: tuple[Benchmark, ...]


@dataclass(frozen=True)
class JudgedStudy:
    """Pairs of captions, and which of the two people and models find better."""

    name: str
    figures: Figures


@dataclass(frozen=True)
class StageCost:
    """A stage's ledger, all attempts summed."""

    stage: str
    seconds: float
    dollars: float
    num_captions: int = 0
    gpu_seconds: float = 0.0


@dataclass(frozen=True)
class NodeCost:
    """Nodes of one kind and price, all stages summed."""

    group: str
    machine: str
    market: str
    node_seconds: float
    dollars_per_hour: float
    dollars: float


@dataclass(frozen=True)
class TrainedOn:
    """What one training stage took from one source, repetitions included."""

    stage: str
    source: str
    num_items: int
    num_tokens: int
    num_supervised: int
    num_images: int


@dataclass(frozen=True)
class Promotion:
    """One entry of the promotion history."""

    model: str
    when: str = ""
    checkpoint: str = ""
    digest: str = ""
    is_current: bool = False


@dataclass(frozen=True)
class ReportData:
    """A whole report."""

    campaign: str
    recipe: str = ""
    written: str = ""
    """When this report was made, for people."""
    metric: str = ""
    """Score that rounds are compared by."""
    decision: str = ""
    """Why the rounds went on or ended."""
    scores: tuple[RoundScores, ...] = ()
    specialists: tuple[Specialist, ...] = ()
    final: FinalModel | None = None
    benchmarks: tuple[BenchmarkScores, ...] = ()
    """Of each model that was asked, in the order of training."""
    studies: tuple[JudgedStudy, ...] = ()
    layers: tuple[LayerFacts, ...] = ()
    alt_words: Words | None = None
    drift: tuple[LayerDrift, ...] = ()
    drift_borders: Mapping[str, str] = field(default_factory=dict)
    """Figure → its border for people."""
    samples: tuple[Sample, ...] = ()
    num_corpus_samples: int = 0
    stages: tuple[StageCost, ...] = ()
    nodes: tuple[NodeCost, ...] = ()
    num_accepted: int | None = None
    """Captions that the filters kept; None before any were judged."""
    trained_on: tuple[TrainedOn, ...] = ()
    human_dollars_per_1000_captions: float = 36.0
    node_dollars_per_hour: float = 0.0
    config_yaml: str = ""
    provenance: tuple[tuple[str, str], ...] = ()
    """Label → digest or version of what went in."""
    promotions: tuple[Promotion, ...] = ()
    notes: tuple[str, ...] = ()
    """Sentences about what could not be shown, and why."""
