"""What a specialist's captions are held against: the OCR engine's reading of the image, boxes that somebody made."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from vila2_ray.campaign.plan import boxes_are_known
from vila2_ray.config import Config, SkillName
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.shards import ShardRef
from vila2_ray.errors import SampleError
from vila2_ray.skills.flags import flags
from vila2_ray.skills.things import Annotation

if TYPE_CHECKING:
    from vila2_ray.experts.choice import Expert, ExpertChoice

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
        expert, reading = _opened(self.expert), corpus.read(shard, rows)
        while samples := list(islice(reading, _IMAGES_AT_ONCE)):
            pairs = []
            for sample in samples:
                try:
                    pairs.append((sample, corpus.decode(sample)))
                except SampleError:
                    continue  # it could be decoded when it was captioned, and no longer can
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
    from vila2_ray.experts.choice import choose_expert

    return SkillCheck(skill, choose_expert(skill, config.skills.of(skill)))


def has_reader() -> bool:
    """Whether the OCR engine is installed."""
    return importlib.util.find_spec("rapidocr") is not None


@functools.lru_cache(maxsize=1)
def _opened(choice: ExpertChoice) -> Expert:
    """Once per process: a process judges many shards."""
    return choice.open()
