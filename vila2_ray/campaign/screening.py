"""The screen stage: verdicts on samples before anything is captioned or trained on; and what they lead to later."""

from __future__ import annotations

from collections.abc import Mapping

from vila2_ray.campaign.layout import Layout
from vila2_ray.campaign.state import Marker
from vila2_ray.config import Config, ScreenConfig
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.duplicates import flag_duplicates
from vila2_ray.corpus.screening import ImageVerdicts, Screening, ShardScreen, copy_lists
from vila2_ray.corpus.shards import Map
from vila2_ray.errors import StageFailed
from vila2_ray.progress import Progress
from vila2_ray.storage import Store


def screened_sources(config: Config) -> tuple[str, ...]:
    """Corpora that are screened: all but pretrain only for what is held out, for all there is of them is wanted."""
    if not config.screen.finds_heldout:
        return ("pretrain",)
    others = sorted({"sft", *config.corpus.sources} - {"pretrain"})
    skills = [name for skill in config.specialists for name in config.corpora_of(skill)]
    return ("pretrain", *(source for source in others if config.corpus.uri(source)), *skills)


def screen(
    corpora: Mapping[str, Corpus],
    heldout: Corpus | None,
    verdicts: ImageVerdicts,
    config: ScreenConfig,
    work: Store,
    progress: Progress,
    run: Map,
) -> dict[str, dict[str, int]]:
    """Write verdicts on every sample of `corpora`, from wherever they stand; source → samples by flag.

    Held-out pictures are measured first, then every shard by itself, then duplicates are looked for across shards.
    """
    copy_lists(config.heldout_hashes, verdicts)
    if heldout is not None:
        _each_shard(heldout, verdicts, config, progress, run)
    counts = {source: _each_shard(corpus, verdicts, config, progress, run) for source, corpus in corpora.items()}
    if config.finds_duplicates:
        progress.note("screen: comparing samples across shards")
        counts["pretrain"] = flag_duplicates(corpora["pretrain"], verdicts, config, work, run)
    for source, found in counts.items():
        left_out = ", ".join(f"{n:,} {flag}" for flag, n in found.items() if n and flag not in ("samples", "kept"))
        progress.note(f"screen {source}: {found['kept']:,} of {found['samples']:,} kept ({left_out or 'none flagged'})")
    return counts


def _each_shard(
    corpus: Corpus, verdicts: ImageVerdicts, config: ScreenConfig, progress: Progress, run: Map
) -> dict[str, int]:
    progress.start(f"screen {corpus.source}", len(corpus.shards), "shards")
    counts = {"samples": 0, "kept": 0}
    for number, found in enumerate(run(ShardScreen(corpus, verdicts, config), corpus.shards), 1):
        for name, count in found.items():
            counts[name] = counts.get(name, 0) + count
        progress.update(number)
    progress.finish()
    return counts


def open_screening(layout: Layout, config: Config, markers: Mapping[str, Marker], corpus: Corpus) -> Screening | None:
    """What is left out of `corpus` as of now: verdicts of the finished screen stage, and takedowns; None: nothing.

    Raises StageFailed where verdicts are configured but not there, CorpusError or StorageError for a bad list.
    """
    takedowns = layout.takedowns(config.screen.takedown)
    verdicts = None
    if config.screen.is_on and corpus.source in screened_sources(config):
        if "screen" not in markers:
            raise StageFailed("samples have not been screened yet. Run it first: vila2 run --until screen")
        verdicts = layout.images(markers["screen"].fingerprint)
    return Screening(corpus, verdicts, takedowns) if verdicts is not None or takedowns.names else None
