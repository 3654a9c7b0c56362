"""The README.md of an exported data set: what it holds, what wrote it, what was left out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_NOT_TOLD = {"rows_sha256", "prompts", "pandas", "ARROW:schema"}
"""Metadata of a layer that has its own place in the card, or none."""


def merge_counts(shards: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts of all shards, from those of each; in an order that does not depend on theirs."""
    total: dict[str, Any] = {"samples": 0, "exported": 0, "words": 0}
    nested: dict[str, Counter[str]] = {name: Counter() for name in ("left_out", "warned", "licenses", "languages")}
    captions: dict[str, Counter[str]] = {}
    for shard in shards:
        for name in total:
            total[name] += shard[name]
        for name, counter in nested.items():
            counter.update(shard[name])
        for layer, tally in shard["captions"].items():
            captions.setdefault(layer, Counter()).update(tally)
    total.update({name: dict(sorted(counter.items())) for name, counter in nested.items()})
    return {**total, "captions": {layer: dict(sorted(tally.items())) for layer, tally in sorted(captions.items())}}


def render_card(figures: Mapping[str, Any], card: Mapping[str, Any]) -> str:
    """Markdown, with the header that data set hubs read."""
    about = card.get("about") or {}
    sources = [str(source) for source in card.get("sources", [])]
    words = figures["words"] / max(figures["exported"], 1)
    parts = [
        "---\ntask_categories:\n- image-to-text\ntags:\n- synthetic-captions\n---",
        f"# {about.get('title') or card.get('title') or 'Recaptioned image–text data'}",
        str(about.get("description") or card.get("description") or DESCRIPTION),
        "## What is in it",
        _table(
            ["", ""],
            [
                ["format", _FORMATS[figures["format"]]],
                ["source", ", ".join(sources)],
                ["shards", figures["shards"]],
                ["samples in the source", figures["samples"]],
                ["samples in this export", figures["exported"]],
                ["words per sample", f"{words:.1f}"],
                *[[f"left out: {reason}", count] for reason, count in figures["left_out"].items()],
                *[
                    [name, about[name]]
                    for name in ("creator", "licence", "url", "version", "published")
                    if about.get(name)
                ],
            ],
        ),
        "## Fit to release",
        _release(figures),
        "## Caption layers",
        _layers(figures),
        "## Text",
        f"Rule `{figures['fuse']['rule']}`; a sample takes the captions of the last layer above that has kept ones."
        + (" Images are byte for byte those of the source." if figures["format"] != "captions" else ""),
        "## Filters",
        "A flagged caption is left out, its sample is not.",
        _table(["setting", "value"], [[name, value] for name, value in figures["filters"].items()]),
        "## Licences",
        "As the source states them, sample by sample. Captions change no rights in an image.",
        _table(["licence", "samples"], list(figures["licenses"].items())),
    ]
    if set(figures["languages"]) - {"not stated"}:
        parts += [
            "## Languages",
            "As the source states them.",
            _table(["language", "samples"], list(figures["languages"].items())),
        ]
    if scores := card.get("scores"):
        names = list(dict.fromkeys(name for row in scores for name in row))
        parts += [
            "## Held-out scores",
            _table(names, [[_short(row.get(name, "")) for name in names] for row in scores]),
        ]
    parts += ["## Limits", LIMITS]
    more = {k: v for k, v in card.items() if k not in ("title", "description", "sources", "scores", "about")}
    if more:
        parts += ["## More", _table(["", ""], [[name, _short(value)] for name, value in more.items()])]
    return "\n\n".join(parts) + "\n"


DESCRIPTION = (
    "Captions written by vision-language models that recaptioned their own training data, round after round, "
    "after VILA² (arXiv 2407.17453)."
)
LIMITS = (
    "The captions are machine-written: they may name what is not in the image, miss what is, and repeat "
    "the biases of the models and of the source. Personal data and copyright are those of its images and texts."
)
_FORMATS = {
    "webdataset": "WebDataset tar: image, .txt (training text), .json (all else)",
    "parquet": "Parquet: image, caption (training text), alt_text, captions, extra columns",
    "captions": "Parquet of captions without pixels, by sample id and SHA-256 of the image file",
}


_RULES = {
    "other_licence": "licence not allowed",
    "unknown_licence": "no licence stated",
    "nsfw": "nsfw",
    "people": "people",
    "near_duplicates": "evaluation image",
}
"""Field of `export.policy` → how its findings are counted; those of hooks also as `… not judged`."""
_ACTIONS = {"refuse": "none of them may be", "leave_out": "left out", "warn": "exported all the same"}


def _release(figures: Mapping[str, Any]) -> str:
    """What speaks against publishing a sample, how many there are and what was done."""
    policy, rows = figures["policy"], []
    for name, rule in _RULES.items():
        looked_for = not {rule, f"{rule}s"} & set(figures["unchecked"])
        for found in (rule, f"{rule} not judged"):
            left_out = figures["left_out"].get(f"policy: {found}", 0)
            warned = figures["warned"].get(found, 0)
            if found == rule or left_out or warned:
                numbers = [left_out, warned] if looked_for else ["not looked for", "not looked for"]
                rows.append([found, _ACTIONS[policy[name]], *numbers])
    parts = [
        "Each sample counts for the first rule that leaves it out, and for every one that lets it pass.",
        _table(["found", "exported?", "samples left out", "samples exported"], rows),
    ]
    if policy["licences"]:
        parts.append(f"Allowed licences: {', '.join(f'`{entry}`' for entry in policy['licences'])}.")
    if figures["hooks"]:
        names = list(dict.fromkeys(name for hook in figures["hooks"] for name in hook))
        parts.append(_table(names, [[hook.get(name, "") for name in names] for hook in figures["hooks"]]))
    return "\n\n".join(parts)


def _layers(figures: Mapping[str, Any]) -> str:
    if not figures["layers"]:
        return "None: alt text only."
    parts = []
    for metadata in figures["layers"]:
        name = metadata.get("layer", "")
        told = [[key, _short(value)] for key, value in sorted(metadata.items()) if key not in _NOT_TOLD and value]
        counted = sorted(figures["captions"].get(name, {}).items())
        parts += [f"### {name}", _table(["", ""], told), _table(["captions", "count"], counted)]
        if prompts := _prompts(metadata.get("prompts", "")):
            parts.append(_table(["prompt", "text"], prompts))
    return "\n\n".join(parts)


def _prompts(told: str) -> list[list[str]]:
    """Prompt id and text, from the JSON object that the layer's metadata holds."""
    try:
        found = json.loads(told)
    except ValueError:
        return [["", told]] if told else []
    return [[str(k), str(v)] for k, v in found.items()] if isinstance(found, dict) else [["", str(found)]]


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return " ".join(text.replace("|", "\\|").split())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
