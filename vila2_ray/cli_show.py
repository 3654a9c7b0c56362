"""Samples at the terminal: alt text and what every layer says of them, with where each caption comes from."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape

from vila2_ray.campaign.api import Campaign
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.layers import Layer
from vila2_ray.corpus.verdicts import Opinions, Verdicts
from vila2_ray.errors import ConfigError, CorpusError

EDITED = "edited"
"""Beside the flags: captions that a person has corrected."""
LOWEST = ("mean_logprob", "min_logprob", "num_output_tokens")


@dataclass(frozen=True)
class Wanted:
    """Which samples to show; a filter of captions looks at `layer`, by default the newest one."""

    sample_id: str | None = None
    number: int = 3
    flag: str | None = None
    status: str | None = None
    lowest: str | None = None
    layer: str | None = None
    seed: int = 0


@dataclass
class Opened:
    """A campaign's layers and verdicts, looked up once."""

    corpus: Corpus
    layers: dict[str, Layer]
    verdicts: dict[str, Verdicts | None]
    metadata: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)

    def provenance(self, name: str, source: str, shard: str) -> dict[str, str]:
        if (name, shard) not in self.metadata:
            self.metadata[name, shard] = self.layers[name].metadata(source, shard)
        return self.metadata[name, shard]


def show(campaign: Campaign, wanted: Wanted, out: Console) -> None:
    """Print the wanted samples. Raises ConfigError or CorpusError when there is no such layer, sample or caption."""
    names = campaign.layers()
    opened = Opened(campaign.corpus(), {n: campaign.layer(n) for n in names}, {n: campaign.verdicts(n) for n in names})
    places = list(_places(opened, wanted))
    if not places:
        raise CorpusError(campaign.uri, "no caption is like that", "Try another --flag, --status or --layer")
    for shard, row in places:
        _print(opened, shard, row, out)


def _places(opened: Opened, wanted: Wanted) -> Iterator[tuple[str, int]]:
    """(shard, row) of the wanted samples."""
    corpus = opened.corpus
    if wanted.sample_id is not None:
        yield _place(corpus, wanted.sample_id)
    elif wanted.flag or wanted.status or wanted.lowest:
        yield from _captions(opened, wanted)
    else:
        draw = random.Random(wanted.seed)
        sizes = [corpus.num_rows(ref) for ref in corpus.shards]
        for number in sorted(draw.sample(range(sum(sizes)), min(wanted.number, sum(sizes)))):
            for ref, size in zip(corpus.shards, sizes, strict=True):
                if number < size:
                    yield ref.shard, number
                    break
                number -= size


def _place(corpus: Corpus, sample_id: str) -> tuple[str, int]:
    shard, _, key = sample_id.partition("/")
    keys = corpus.index(shard)["key"].to_pylist()
    if key not in keys:
        example = f"{shard}/{keys[0]}" if keys else "<shard>/<key>"
        raise CorpusError(sample_id, "no such sample", f"The shard's first one is {example}")
    return shard, keys.index(key)


def _captions(opened: Opened, wanted: Wanted) -> Iterator[tuple[str, int]]:
    name = wanted.layer or next(reversed(opened.layers), None)
    if name not in opened.layers:
        raise ConfigError("--layer", name, f"finished layers: {', '.join(opened.layers) or 'none yet'}")
    if wanted.lowest not in (None, *LOWEST):
        raise ConfigError("--lowest", wanted.lowest, f"one of {', '.join(LOWEST)}")
    if wanted.lowest:
        table = opened.layers[name].to_table(["shard", "row", wanted.lowest])
        table = table.filter(table[wanted.lowest].is_valid()).sort_by(wanted.lowest).slice(0, wanted.number)
        yield from zip(table["shard"].to_pylist(), table["row"].to_pylist(), strict=True)
        return
    draw, left = random.Random(wanted.seed), wanted.number
    shards = [ref for ref in opened.corpus.shards if opened.layers[name].has(ref.source, ref.shard)]
    draw.shuffle(shards)
    for ref in shards:  # until enough are found: a layer can be far larger than what anybody wants to read
        rows = _matching(opened.layers[name], opened.verdicts[name], ref.source, ref.shard, wanted)
        for row in draw.sample(rows, min(left, len(rows))):
            yield ref.shard, row
        left -= min(left, len(rows))
        if not left:
            return


def _matching(layer: Layer, verdicts: Verdicts | None, source: str, shard: str, wanted: Wanted) -> list[int]:
    told = verdicts.opinions(source, shard) if verdicts is not None else Opinions({}, {})
    found = set()
    for entry in layer.read(source, shard, ["row", "variant", "status"]).to_pylist():
        key = (entry["row"], entry["variant"])
        said = [*told.flags.get(key, []), *([EDITED] if key in told.edits else [])]
        flagged = wanted.flag is None or wanted.flag in said
        if flagged and wanted.status in (None, entry["status"]):
            found.add(entry["row"])
    return sorted(found)


def _print(opened: Opened, shard: str, row: int, out: Console) -> None:
    sample = next(iter(opened.corpus.read(shard, [row], truth=True, images=False)))
    out.rule(f"[bold]{escape(sample.sample_id)}[/]", align="left")
    out.print(f"[bold]alt text[/]  {escape(sample.alt_text) or '[dim]none[/]'}")
    if sample.problem:
        out.print(f"[red]{escape(str(sample.problem))}[/]")
    for name, layer in opened.layers.items():
        if not layer.has(sample.source, shard):
            continue
        table = layer.read(sample.source, shard)
        verdicts = opened.verdicts[name]
        told = verdicts.opinions(sample.source, shard) if verdicts is not None else Opinions({}, {})
        origin = opened.provenance(name, sample.source, shard)
        for caption in table.filter(_equal(table, row)).to_pylist():
            key = (row, caption["variant"])
            _print_caption(name, caption, told.flags.get(key, []), told.edits.get(key), origin, out)


def _equal(table: Any, row: int) -> Any:
    import pyarrow.compute as pc

    return pc.equal(table["row"], row)


def _print_caption(
    name: str, caption: dict[str, Any], flags: list[str], edit: str | None, origin: dict[str, str], out: Console
) -> None:
    if caption["status"] == "captioned":
        text = escape(caption["text"])
    else:
        reason = ": ".join(part for part in (caption["error"], caption["error_detail"]) if part)
        text = f"[red]{caption['status']}[/] {escape(reason)}".rstrip()
    marks = "".join(f" [yellow]\\[{flag}][/]" for flag in flags)
    out.print(f"[bold]{name}[/]{marks}  {text}")
    details = [f"{origin.get('model', '')} {origin.get('checkpoint_digest', '')[:8]}".strip(), origin.get("engine", "")]
    if caption["status"] == "captioned":
        details += [f"prompt {caption['prompt_id']}", f"{caption['num_output_tokens']} tokens"]
        details += [f"mean log-probability {caption['mean_logprob']:.2f}, lowest {caption['min_logprob']:.2f}"]
        details += ["unfinished"] if caption["finish_reason"] == "length" else []
    if edit is not None:
        out.print(f"  [green]edited[/]  {escape(edit) or '[dim]to nothing[/]'}")
    out.print("  [dim]" + escape(" · ".join(part for part in details if part)) + "[/]")
