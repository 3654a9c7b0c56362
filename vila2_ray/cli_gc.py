"""`vila2 gc`: what can go, shown before it goes."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Column, Table

from vila2_ray.campaign.api import Campaign
from vila2_ray.campaign.garbage import Garbage, collect, find_garbage
from vila2_ray.cli_tables import console


def collect_here(uri: str, delete: bool) -> None:
    """List what nothing needs; with `delete`, delete it under the campaign's lease."""
    campaign = Campaign(uri)
    found = find_garbage(campaign)
    if not found:
        print("nothing to collect")
        return
    console().print(_table(found, campaign.uri))
    if not delete:
        print("nothing was deleted; vila2 gc --delete does it")
        return
    gone = list(collect(campaign))
    num_bytes = sum(garbage.num_bytes for garbage in gone)
    print(f"deleted {len(gone):,} folder{'' if len(gone) == 1 else 's'}, {size(num_bytes)}")


def size(num_bytes: int) -> str:
    """`512 B`, `3.4 MB`, `1.2 TB`."""
    amount = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def _table(found: Sequence[Garbage], uri: str) -> Table:
    right = [Column(name, justify="right") for name in ("files", "size")]
    table = Table(
        Column("folder", overflow="fold"), *right, "what it is", title=f"not needed in {uri}", title_justify="left"
    )
    for garbage in found:
        table.add_row(garbage.path, f"{garbage.num_files:,}", size(garbage.num_bytes), garbage.why)
    table.add_section()
    total = sum(garbage.num_bytes for garbage in found)
    table.add_row("all", f"{sum(garbage.num_files for garbage in found):,}", size(total), "")
    return table
