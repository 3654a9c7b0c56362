"""Export of a campaign: the layers that led to its best model, with all that the data card should say of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from vila2_ray.campaign.api import Campaign
from vila2_ray.campaign.plan import layers_judged
from vila2_ray.campaign.releasing import open_policy
from vila2_ray.campaign.saturation import decide
from vila2_ray.campaign.screening import open_screening
from vila2_ray.config import Config
from vila2_ray.corpus.export import export
from vila2_ray.corpus.shards import Map
from vila2_ray.errors import ConfigError, CorpusError
from vila2_ray.progress import NullProgress, Progress
from vila2_ray.recipe import override
from vila2_ray.storage import Store

_TAKEN = ("export.", "screen.takedown=")
"""Beginnings of the fields that an export reads anew; all others decided what the campaign made."""


def export_config(campaign: Campaign, overrides: Sequence[str] = ()) -> Config:
    """The campaign's configuration with `key=value` on top. Raises ConfigError for fields that no export reads."""
    for item in overrides:
        if not item.startswith(_TAKEN):
            raise ConfigError("override", item, "an export reads export.* and screen.takedown only")
    return override(campaign.config, list(overrides)) if overrides else campaign.config


def export_campaign(
    campaign: Campaign,
    to: str = "",
    format: Literal["webdataset", "parquet", "captions"] = "captions",
    progress: Progress | None = None,
    run: Map | None = None,
    config: Config | None = None,
) -> dict[str, Any]:
    """Write the fused data set, or the captions alone, to `to` (default `<campaign>/export/<format>`); the card's
    figures.

    Takes the layers up to the best round's, and the full pass where there is one; a sample's text comes from the last
    that has a kept caption for it. Specialists' layers are no part of it. `config` (default: the campaign's) says what
    may be published: `export.policy`, hooks and lists; what has not been looked at yet is looked at first. Raises
    CorpusError when no layer is finished, ConfigError for an unknown format and for samples that the policy refuses.
    """
    config, scores = config or campaign.config, campaign.scores()
    progress, run = progress or NullProgress(), run or map
    finished = [name for name in campaign.layers() if name not in config.specialists]
    if not finished:
        raise CorpusError(campaign.uri, "no finished caption layer to export", "Run a round first: vila2 run")
    best = max(decide(scores, config.rounds).best, 1) if scores else len(finished)
    names = [name for name in finished if name == "full" or int(name.removeprefix("round-")) <= best]
    judged_with = {
        name: last for last in names for name in layers_judged(config, last)
    }  # the last one's opinion counts
    corpus, layers = campaign.corpus(), [campaign.layer(name) for name in names]
    return export(
        corpus,
        layers,
        [campaign.verdicts(name, judged_with[name]) for name in names],
        config.fuse,
        Store(to) if to else campaign.store.sub("export", format),
        format,
        {
            "title": f"Captions of {campaign.uri.rsplit('/', 1)[-1]}",
            "sources": [config.corpus.pretrain],
            "scores": scores,
            "about": asdict(config.export.about),
        },
        config.filters,
        progress,
        run,
        open_screening(campaign.layout, config, campaign.markers(), corpus),
        open_policy(campaign.layout, config, corpus, layers, progress, run),
        config.export.language,
    )
