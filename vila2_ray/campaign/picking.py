"""Which of a sample's kept captions the filter stage leaves to training: by votes where raters have compared them, else
by `pick.by`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vila2_ray.captions.filters import Flag, training_text
from vila2_ray.captions.pick import pick
from vila2_ray.captions.votes import ALT_TEXT, Comparison, best
from vila2_ray.captions.words import has_content
from vila2_ray.config import FiltersConfig, PickConfig
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.shards import ShardRef
from vila2_ray.errors import SampleError
from vila2_ray.storage import Store

_Row = dict[str, Any]
_At = tuple[int, int]
"""Layer, oldest first, and place among its captioned rows."""
_IMAGES_AT_ONCE = 16
_SURE = {"mean_logprob": 0.0, "min_logprob": 0.0}
"""Of an edit: a person wrote it, and no model had to be sure of it."""


@dataclass(frozen=True)
class Picking:
    """Picks within a shard. Picklable."""

    corpus: Corpus
    filters: FiltersConfig
    config: PickConfig

    def __call__(
        self,
        shard: ShardRef,
        rows: list[list[_Row]],
        flags: list[list[list[str]]],
        alt_texts: dict[int, str],
        comparisons: Mapping[int, Sequence[Comparison]],
    ) -> dict[str, int]:
        """Add `not_picked` to the flags of kept captions that are not chosen; what there was to choose from.

        `rows` and `flags` go by layer, oldest first; `comparisons` by the samples' row.
        """
        kept = _by_sample(rows, flags)
        chosen: dict[int, list[_At]] = {}
        for number, places in kept.items():
            at = {(i, int(rows[i][j]["variant"])): (i, j) for i, j in places}
            candidates = [*at, ALT_TEXT] if has_content(alt_texts[number]) else [*at]
            winner = best(comparisons.get(number, ()), candidates)
            if winner is not None:
                chosen[number] = [at[winner]] if winner in at else []
        num_voted = len(chosen)
        chosen |= self._by_rule(shard, rows, {n: places for n, places in kept.items() if n not in chosen}, alt_texts)
        for number, places in kept.items():
            for i, j in places:
                if (i, j) not in chosen[number]:
                    flags[i][j] = [*flags[i][j], Flag.NOT_PICKED.value]
        found = {"samples": len(kept), "alt_text": sum(not places for places in chosen.values())}
        return {**found, "voted": num_voted} if num_voted else found

    def _by_rule(
        self, shard: ShardRef, rows: list[list[_Row]], kept: dict[int, list[_At]], alt_texts: dict[int, str]
    ) -> dict[int, list[_At]]:
        """Row → what `pick.by` chooses; by `none`, all of the newest layer."""
        if self.config.by == "none":
            return {number: [(i, j) for i, j in places if i == len(rows) - 1] for number, places in kept.items()}
        texts = {number: [self._told(rows[i][j]) for i, j in places] for number, places in kept.items()}
        fits = dict(self._similarities(shard, texts, alt_texts)) if self.config.by == "scorer" else {}
        chosen: dict[int, list[_At]] = {}
        for number, places in kept.items():
            if self.config.by == "scorer" and number not in fits:
                found = None  # the image could be decoded when it was captioned, and no longer can
            else:
                found = pick(texts[number], self.config, *fits.get(number, ()))
            chosen[number] = [] if found is None else [places[found]]
        return chosen

    def _told(self, row: _Row) -> _Row:
        """A row with what is trained on of it as its text."""
        text = training_text(row["text"], self.filters, row["edit"])
        return {**row, "text": text, **(_SURE if row["edit"] is not None else {})}

    def _similarities(
        self, shard: ShardRef, texts: dict[int, list[_Row]], alt_texts: dict[int, str]
    ) -> Iterator[tuple[int, tuple[list[float], float | None]]]:
        """Row → image–text similarity of its captions and of its alt text (None where there is none)."""
        from vila2_ray.engines.imagetext import open_scorer

        scorer = open_scorer(Store(self.config.scorer).local_folder())
        for batch in self.corpus.read_decoded(shard, sorted(texts), _IMAGES_AT_ONCE):
            pictures = [(sample, image) for sample, image in batch if not isinstance(image, SampleError)]
            said = [[row["text"] for row in texts[sample.row]] for sample, _ in pictures]
            alone = [[alt_texts[s.row]] if has_content(alt_texts[s.row]) else [] for s, _ in pictures]
            asked = [captions + alt for captions, alt in zip(said, alone, strict=True)]
            for (sample, _), captions, found in zip(
                pictures, said, scorer.similarities([image for _, image in pictures], asked), strict=True
            ):
                rest = found[len(captions) :]
                yield sample.row, (found[: len(captions)], rest[0] if rest else None)


def _by_sample(rows: list[list[_Row]], flags: list[list[list[str]]]) -> dict[int, list[_At]]:
    """Row number → its kept captions, newest layer first, then variants in order."""
    found: dict[int, list[_At]] = {}
    for i in reversed(range(len(rows))):
        for j, row in enumerate(rows[i]):
            if not flags[i][j]:
                found.setdefault(row["row"], []).append((i, j))
    return found
