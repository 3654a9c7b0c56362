"""What captions cost so far, per 1,000 written and per 1,000 that the filters kept, beside those of people. Pure.

Training makes the captions as good as they are, so that both sums are told: of the captioning passes alone, and of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vila2_ray.campaign.ledger import Entry, Spent
from vila2_ray.campaign.state import Marker


@dataclass(frozen=True)
class CaptionCosts:
    """Sums over a campaign."""

    dollars: float
    """Of everything, failed and killed attempts included."""
    dollars_of_passes: float
    """Of recaptioning stages alone."""
    num_captions: int
    num_accepted: int | None
    """Kept by the filters; None before a layer has been judged."""
    human_dollars_per_1000: float

    def per_1000(self, dollars: float) -> float | None:
        """Of captions written."""
        return 1000 * dollars / self.num_captions if self.num_captions else None

    def per_1000_accepted(self, dollars: float) -> float | None:
        return 1000 * dollars / self.num_accepted if self.num_accepted else None


def caption_costs(
    spent: Mapping[str, Spent],
    entries: Iterable[Entry],
    markers: Mapping[str, Marker],
    human_dollars_per_1000: float,
    judges_all: bool = False,
) -> CaptionCosts:
    """Counted by the filters, exactly; a layer that they have not seen counts what the ledger tells of it.

    `judges_all`: pick.layers=all, where each round's filters judge the earlier rounds' layers as well.
    """
    filters = {name.removeprefix("filter-"): m for name, m in markers.items() if name.startswith("filter-")}
    counts = {about: marker.summary.get("flags", {}) for about, marker in filters.items()}
    if judges_all and (rounds := sorted(int(k) for k in counts if k.isdigit())):
        counts = {k: found for k, found in counts.items() if not k.isdigit() or int(k) == rounds[-1]}
        seen = {str(k) for k in rounds}
    else:
        seen = set(counts)
    judged = [found for found in counts.values() if "captions" in found]
    written = sum(found["captions"] for found in judged)
    for entry in entries:
        kind, _, about = entry.stage.partition("-")
        if kind == "recaption" and about.partition("-retry-")[0] not in seen:
            written += int(entry.figures.get("num_captioned") or 0)
    return CaptionCosts(
        dollars=sum(cost.dollars for cost in spent.values()),
        dollars_of_passes=sum(cost.dollars for stage, cost in spent.items() if stage.startswith("recaption")),
        num_captions=written,
        num_accepted=sum(found["kept"] for found in judged) if judged else None,
        human_dollars_per_1000=human_dollars_per_1000,
    )
