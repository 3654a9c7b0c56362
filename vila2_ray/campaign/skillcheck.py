"""What a specialist's captions are held against: the OCR engine's reading of the image, boxes that somebody made."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vila2_ray.campaign.plan import boxes_are_known
from vila2_ray.config import Config, SkillName
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.shards import ShardRef
from vila2_ray.errors import SampleError
from vila2_ray.experts.choice import Expert, ExpertChoice, choose_expert, has_reader
from vila2_ray.skills.flags import flags
from vila2_ray.skills.things import Annotation

_IMAGES_AT_ONCE = 16


@dataclass(frozen=True)
class SkillCheck:
    """Flags of a skill's captions. Picklable."""

    skill: SkillName
    expert: ExpertChoice | None
    """None: captions are judged by their form alone."""
    problem: str = ""
    """Why there is no expert."""

    @property
    def expert_name(self) -> str:
        return f"{self.expert.name} {self.expert.version}" if self.expert is not None else ""

    def flags(self, corpus: Corpus, shard: ShardRef, captions: Sequence[tuple[int, str, bool]]) -> list[list[str]]:
        """Flags of a shard's (row, text, is kept) captions, in order.

        The expert looks at no image whose captions are left out anyway: reading is what a filter stage pays for.
        """
        wanted = sorted({row for row, _, is_kept in captions if is_kept})
        seen = dict(self._annotated(corpus, shard, wanted)) if self.expert is not None else {}
        return [flags(self.skill, text, seen.get(row) if is_kept else None) for row, text, is_kept in captions]

    def _annotated(
        self, corpus: Corpus, shard: ShardRef, rows: Sequence[int]
    ) -> Iterator[tuple[int, Annotation | None]]:
        assert self.expert is not None
        expert = _opened(self.expert)
        for batch in corpus.read_decoded(shard, rows, _IMAGES_AT_ONCE):
            # one without an image could be decoded when it was captioned, and no longer can
            pairs = [(sample, image) for sample, image in batch if not isinstance(image, SampleError)]
            found = expert.annotate([sample for sample, _ in pairs], [image for _, image in pairs])
            for (sample, _), seen in zip(pairs, found, strict=True):
                yield sample.row, seen if isinstance(seen, Annotation) else None


def open_check(config: Config, skill: SkillName) -> SkillCheck:
    """What there is to hold the captions of `corpus.pretrain` against; opens nothing."""
    if skill == "ocr" and not has_reader():
        return SkillCheck(skill, None, "the OCR engine is not installed (vila2-ray[ocr]), so words are not checked")
    if skill != "ocr" and not boxes_are_known(config, skill):
        problem = f"skills.{skill}.annotations says nothing of corpus.pretrain, so captions are judged by form alone"
        return SkillCheck(skill, None, problem)
    return SkillCheck(skill, choose_expert(skill, config.skills.of(skill)))


@functools.lru_cache(maxsize=1)
def _opened(choice: ExpertChoice) -> Expert:
    """Once per process: a process judges many shards."""
    return choice.open()
