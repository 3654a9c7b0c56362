"""Export of a campaign: the layers that led to its best model, with all that the data card should say of them."""

from __future__ import annotations

from typing import Any, Literal

from vila2_ray.campaign.api import Campaign
from vila2_ray.campaign.plan import layers_judged
from vila2_ray.campaign.saturation import decide
from vila2_ray.corpus.export import Run, export
from vila2_ray.errors import CorpusError
from vila2_ray.progress import Progress
from vila2_ray.storage import Store


def export_campaign(
    campaign: Campaign,
    to: str = "",
    format: Literal["webdataset", "parquet", "captions"] = "captions",
    progress: Progress | None = None,
    run: Run | None = None,
) -> dict[str, Any]:
    """Write the fused data set, or the captions alone, to `to` (default `<campaign>/export/<format>`); the card's
    figures.

    Takes the layers up to the best round's, and the full pass where there is one; a sample's text comes from the last
    that has a kept caption for it. Specialists' layers are no part of it. Raises CorpusError when no layer is finished,
    ConfigError for an unknown format.
    """
    config, scores = campaign.config, campaign.scores()
    finished = [name for name in campaign.layers() if name not in config.specialists]
    if not finished:
        raise CorpusError(campaign.uri, "no finished caption layer to export", "Run a round first: vila2 run")
    best = max(decide(scores, config.rounds).best, 1) if scores else len(finished)
    names = [name for name in finished if name == "full" or int(name.removeprefix("round-")) <= best]
    judged_with = {
        name: last for last in names for name in layers_judged(config, last)
    }  # the last one's opinion counts
    return export(
        campaign.corpus(),
        [campaign.layer(name) for name in names],
        [campaign.verdicts(name, judged_with[name]) for name in names],
        config.fuse,
        Store(to) if to else campaign.store.sub("export", format),
        format,
        {
            "title": f"Captions of {campaign.uri.rsplit('/', 1)[-1]}",
            "sources": [config.corpus.pretrain],
            "scores": scores,
        },
        config.filters,
        progress,
        run,
        campaign.screening(),
    )
