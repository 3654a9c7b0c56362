"""The report of a campaign: one HTML file that needs nothing else, in `<campaign>/report/index.html`.

    Campaign ──collect──▶ ReportData ──render──▶ HTML

`collect` reads layers, verdicts, scores and costs; `render` knows only plain data and is tested with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vila2_ray.campaign.api import Campaign

NAME = "report/index.html"
"""Where the report lies in a campaign's folder."""


def build(campaign: Campaign, num_samples: int = 48) -> str:
    """Write the report with `num_samples` samples; returns its URI. Raises StorageError."""
    from vila2_ray.report.collect import collect
    from vila2_ray.report.render import render

    campaign.store.write_text(NAME, render(collect(campaign, num_samples)))
    return campaign.store.path(NAME)


__all__ = ["NAME", "build"]
