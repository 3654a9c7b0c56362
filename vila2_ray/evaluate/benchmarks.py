"""Each kind of benchmark: who reads its files, by which rule it is scored, how long an answer may be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from vila2_ray.config import BenchmarkConfig, BenchmarkKind, JudgeConfig
from vila2_ray.errors import CorpusError
from vila2_ray.evaluate.items import Item
from vila2_ray.evaluate.judging import CommandJudge
from vila2_ray.evaluate.published.captions import read_chair, read_coco
from vila2_ray.evaluate.published.files import Files
from vila2_ray.evaluate.published.mmmu import read_mmmu
from vila2_ray.evaluate.published.openanswers import read_mmvet, read_own
from vila2_ray.evaluate.published.options import read_mmbench, read_scienceqa, read_seed
from vila2_ray.evaluate.published.shortanswers import read_gqa, read_textvqa, read_vizwiz, read_vqav2
from vila2_ray.evaluate.published.yesno import read_mme, read_pope
from vila2_ray.evaluate.rules.captioning import CIDER
from vila2_ray.evaluate.rules.exact import EXACT, OWN
from vila2_ray.evaluate.rules.hallucination import CHAIR
from vila2_ray.evaluate.rules.judged import judged_by, judged_together
from vila2_ray.evaluate.rules.letters import MMBENCH, SCIENCEQA, SEED
from vila2_ray.evaluate.rules.mmmu import MMMU
from vila2_ray.evaluate.rules.tally import Rule
from vila2_ray.evaluate.rules.vqa import SHORT, VQAV2
from vila2_ray.evaluate.rules.yesno import MME, POPE
from vila2_ray.judge.openanswers import EndpointJudge


class Kind(NamedTuple):
    read: Callable[[Files], Iterator[Item]]
    rule: Rule | None
    """None: a judge's, who is not part of the benchmark."""
    max_tokens: int


KINDS: dict[BenchmarkKind, Kind] = {
    "vqav2": Kind(read_vqav2, VQAV2, 16),
    "gqa": Kind(read_gqa, EXACT, 16),
    "textvqa": Kind(read_textvqa, SHORT, 32),
    "vizwiz": Kind(read_vizwiz, SHORT, 16),
    "scienceqa": Kind(read_scienceqa, SCIENCEQA, 16),
    "pope": Kind(read_pope, POPE, 16),
    "mme": Kind(read_mme, MME, 16),
    "mmbench": Kind(read_mmbench, MMBENCH, 32),
    "seed": Kind(read_seed, SEED, 16),
    "mmmu": Kind(read_mmmu, MMMU, 128),
    "mmvet": Kind(read_mmvet, None, 512),
    "coco": Kind(read_coco, CIDER, 64),
    "chair": Kind(read_chair, CHAIR, 512),
    "own": Kind(read_own, OWN, 128),
}
"""All but `command`, which asks and scores by itself."""


class Published(NamedTuple):
    """What a benchmark asks, whoever scores the answers."""

    items: list[Item]
    num_missing: int
    """Questions that are left out, for their pictures are not there."""
    digest: str
    """Of its annotation files."""


class Opened(NamedTuple):
    """A benchmark that is ready to be asked."""

    items: list[Item]
    rule: Rule
    max_tokens: int
    num_missing: int
    """Questions that are left out, for their pictures are not there."""
    digest: str
    """Of its annotation files."""
    judge: EndpointJudge | None = None
    """The model that scores, where one does."""


def goes_by_endpoint(config: BenchmarkConfig) -> bool:
    """Whether a model is asked how right its answers are."""
    return config.kind in KINDS and KINDS[config.kind].rule is None and not config.command


def read_published(config: BenchmarkConfig) -> Published:
    """Read its annotations and list its pictures.

    Raises CorpusError for files that are not what they should be, where there is nothing to ask, or where too many
    pictures are missing; StorageError.
    """
    files = Files(config)
    items = list(KINDS[config.kind].read(files))
    missing = len(files.missing)
    check_missing(config, missing, missing + len(items), files.missing[:1])
    if not items:
        raise CorpusError(files.store.uri, "nothing to ask is in there", f"Look at `split` of this {config.kind}")
    if len({item.id for item in items}) < len(items):
        raise CorpusError(files.store.uri, "two questions have the same id", "Leave out files that repeat others")
    return Published(choose(items, config.max_items), missing, files.digest)


def open_benchmark(config: BenchmarkConfig, judge: JudgeConfig | None = None) -> Opened:
    """Read it, with who scores it. `judge` scores open answers that no command of the user's does.

    Raises as `read_published` does, and ConfigError for a judge that cannot work.
    """
    kind, found = KINDS[config.kind], read_published(config)
    rule, model = kind.rule, None
    if config.command:
        rule = judged_by(CommandJudge(config.command, config.timeout_seconds))
    elif goes_by_endpoint(config):
        assert judge is not None, "the configuration asks for a judge"
        model = EndpointJudge(judge)
        rule = judged_together(model.score)
    assert rule is not None
    max_tokens = config.max_tokens or kind.max_tokens
    return Opened(found.items, rule, max_tokens, found.num_missing, found.digest, model)


def check_missing(config: BenchmarkConfig, missing: int, total: int, examples: Sequence[str]) -> None:
    """Raises CorpusError where more pictures are missing than `max_missing_share` allows."""
    if missing > config.max_missing_share * total:
        told = f"{missing:,} of {total:,} questions are without their picture" + "".join(f", {e}" for e in examples)
        remedy = "Fetch the pictures, say where they are by `images`, or allow it by max_missing_share"
        raise CorpusError(config.images or config.path, told, remedy)


def choose(items: Sequence[Item], max_items: int) -> list[Item]:
    """About `max_items` at even distances (0: all), in their order: items of one cluster together, whole."""
    if not max_items or len(items) <= max_items:
        return list(items)
    order = {cluster: k for k, cluster in enumerate(dict.fromkeys(item.drawn_with for item in items))}
    together = sorted(items, key=lambda item: order[item.drawn_with])  # stable
    clusters = [list(group) for _, group in groupby(together, key=lambda item: item.drawn_with)]
    num = max(1, round(len(clusters) * max_items / len(items)))
    kept = {id(item) for i in range(num) for item in clusters[i * len(clusters) // num]}
    return [item for item in items if id(item) in kept]
