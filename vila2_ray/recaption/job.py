"""What a recaptioning is asked to do, and what it says when it is done."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from vila2_ray.captions.prompts import Prompts
from vila2_ray.config import RecaptionConfig, SamplingConfig
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.layers import Layer, Parts
from vila2_ray.corpus.screening import Screening
from vila2_ray.storage import Store


@dataclass(frozen=True)
class CaptionPlan:
    """All that decides what a caption row says, beside the image and the model: the same plan, the same rows."""

    prompts: Prompts
    prompt_ids: tuple[str, ...]
    num_variants: int
    sampling: SamplingConfig
    plan_key: str
    """Enters the hashes by which samples get prompts, seeds and their place in the share."""
    fraction: float
    """Share of the samples that is captioned; the others become `not_selected` rows."""
    max_pixels: int


@dataclass(frozen=True)
class RecaptionJob:
    """One caption layer over one corpus."""

    corpus: Corpus
    layer: Layer
    parts: Parts
    checkpoint_folder: Store | Path
    prompts: Prompts
    config: RecaptionConfig
    plan_key: str
    fraction: float = 1.0
    keep: Layer | None = None
    """Captioned rows of this layer are copied, not made again: what the last full pass does with the last round's."""
    screening: Screening | None = None
    """Samples that it leaves out are not captioned; their rows are `not_selected` and say why."""
    metadata: dict[str, str] = field(default_factory=dict)
    """Constant for the layer; stands in every file beside what this package adds (prompts, sampling, engine)."""
    max_pixels: int = 0
    """0: the corpus's own."""

    @property
    def plan(self) -> CaptionPlan:
        return CaptionPlan(
            prompts=self.prompts,
            prompt_ids=self.config.prompt_ids,
            num_variants=self.config.num_variants,
            sampling=self.config.sampling,
            plan_key=self.plan_key,
            fraction=self.fraction,
            max_pixels=self.max_pixels or self.corpus.max_pixels,
        )


@dataclass(frozen=True)
class RecaptionSummary:
    """Figures of one call; what an earlier, interrupted call did counts in `num_rows` alone."""

    num_rows: int
    """Samples of the layer, whichever call captioned them."""
    num_samples: int
    """Samples that this call went through."""
    num_captioned: int
    """Captions that this call wrote; with `num_kept`, `num_failed` and `num_not_selected` all rows that it wrote."""
    num_kept: int
    num_failed: int
    num_not_selected: int
    num_tokens: int
    """Output tokens that this call generated."""
    num_shards: int
    seconds: float
    engine: str
    generating_seconds: float = 0.0
    """From the moment at which the first engine was there until the last layer file was."""
    seconds_by_part: dict[str, float] = field(default_factory=dict)
    """Where this call's time went: read, decode, prepare, engine, write; summed over threads, which overlap."""

    @property
    def captions_per_second(self) -> float:
        return self.num_captioned / self.seconds if self.seconds else 0.0
