"""What specialists learn from and are asked, skill by skill."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from vila2_ray.config.fields import check_positive, check_share, operational
from vila2_ray.config.training import StageConfig
from vila2_ray.errors import ConfigError
from vila2_ray.skills.family import PROMPTS, QUESTIONS

SkillName = Literal["spatial", "grounding", "ocr"]


@dataclass(frozen=True)
class SkillConfig:
    """One skill: its finetuning data, and the words in which it is asked for.

    Paths are operational, as those of corpora are: what lies there enters fingerprints by its digest.
    """

    data: str = operational("")
    """Finished finetuning conversations (LLaVA-style, any form that corpus.sft takes). Empty: made from `images`."""
    images: str = operational("")
    """Shards whose images conversations are made from. Empty: corpus.pretrain."""
    annotations: str = operational("")
    """File, folder or glob of boxes: GRIT-like or Visual-Genome-like (experts/annotations.py). Spatial, grounding."""
    detector: str = operational("")
    """Folder of a transformers object detector (also open-vocabulary), where there are no annotations."""
    labels: tuple[str, ...] = ()
    """What an open-vocabulary detector looks for."""
    min_score: float = 0.5
    """Confidence below which an expert's finding is left out."""
    max_samples: int = 0
    """Images that conversations are made from, drawn by a hash. 0: all."""
    prompt_ids: tuple[str, ...] = ()
    """Prompts that the specialist captions by (recaption.prompts may define them). Empty: the skill's own family."""
    questions: tuple[str, ...] = ()
    """What the final training asks, another list than the prompts. Empty: the skill's own."""
    max_tokens: int = 256
    """Of the specialist's captions."""
    drop_lowest_min_logprob_share: float | None = None
    """filters.drop_lowest_min_logprob_share for the specialist's captions. Their least likely token says how much they
    name rather than how wrong they are: the share takes the captions of many things first. None: as for the rounds."""

    def __post_init__(self) -> None:
        check_positive("skills.<skill>", self, "max_tokens")
        check_share("skills.<skill>", self, "min_score")
        if self.drop_lowest_min_logprob_share is not None:
            check_share("skills.<skill>", self, "drop_lowest_min_logprob_share")
        if self.max_samples < 0:
            raise ConfigError("skills.<skill>.max_samples", self.max_samples, "must not be negative; 0 takes all")
        if self.annotations and self.detector:
            raise ConfigError("skills.<skill>.detector", self.detector, "name annotations or a detector, not both")


@dataclass(frozen=True)
class SkillsConfig:
    """The second half of VILA²: specialists, and the final training that learns from all of them."""

    spatial: SkillConfig = field(default_factory=SkillConfig)
    grounding: SkillConfig = field(default_factory=SkillConfig)
    ocr: SkillConfig = field(default_factory=SkillConfig)
    train: StageConfig = field(
        default_factory=lambda: StageConfig(trained=("vision", "connector", "language"), peak_lr=2e-5)
    )
    """How specialists are finetuned, from VLM_K's pretrain-stage checkpoint."""
    turns: Literal["joined", "apart"] = "joined"
    """`joined`: alt text, then every specialist's question and answer in one conversation, in shuffled order, as the
    paper has it. `apart`: each an item of its own."""
    max_length: int = 0
    """Tokens of a fused conversation in the final pretraining, and of one that is rehearsed. 0: those of the stage."""
    rehearsal: float = 0.0
    """Share of corpus.pretrain's samples, drawn anew for each epoch, whose questions and specialists' answers the final
    model's SFT repeats beside the SFT set, so that no skill is forgotten over it. With `turns: apart` the SFT set's own
    conversations are taken apart there as well. 0: none."""
    asks_statements: bool = False
    """Also ask for single statements of a specialist's caption (is the cat left of the dog?), both ways round."""
    max_general_loss: float = operational(0.01)
    """How much of rounds.metric the final model may lose and still be promoted."""

    def __post_init__(self) -> None:
        check_share("skills", self, "rehearsal")
        if self.max_length < 0:
            raise ConfigError(
                "skills.max_length", self.max_length, "must not be negative; 0: train.pretrain.max_length"
            )

    def of(self, skill: str) -> SkillConfig:
        """Raises ConfigError for a skill that there is not."""
        if skill not in get_args(SkillName):
            raise ConfigError("skill", skill, f"must be one of {', '.join(get_args(SkillName))}")
        return getattr(self, skill)

    def prompt_ids(self, skill: str) -> tuple[str, ...]:
        """What its specialist captions by: as configured, else the skill's own family."""
        return self.of(skill).prompt_ids or tuple(PROMPTS[skill])

    def questions(self, skill: str) -> tuple[str, ...]:
        """What the final training asks: as configured, else the skill's own list."""
        return self.of(skill).questions or QUESTIONS[skill]
