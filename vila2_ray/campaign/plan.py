"""What a campaign consists of: its stages in order, what each reads, and the fingerprint that names its work. Pure.

A stage's fingerprint hashes the semantic fields that it reads and the digests of its inputs: the same work always has
the same name. Numbers of rounds, budgets, pool sizes and paths are in none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from vila2_ray.config import Config, TrainingStage, semantic_fields
from vila2_ray.errors import ConfigError

LAST_STAGES = ("promote", "report", "export")
"""Cheap, never fingerprinted against older output: made anew whenever something before them changed."""


@dataclass(frozen=True)
class Stage:
    """One stage: `kind` says which code runs it, `inputs` which stages' outputs it reads."""

    name: str
    kind: str
    round: int | None = None
    inputs: tuple[str, ...] = ()
    corpora: tuple[str, ...] = ()
    """Corpora whose digest enters the fingerprint."""
    reads_base: bool = False
    reads_scorer: bool = False
    fields: tuple[str, ...] = ()
    """Dotted prefixes of the semantic configuration fields that decide its output."""

    @property
    def model(self) -> str:
        """Name of the model that a training stage trains: `base` for the shared alignment, else `vlm-<round>`."""
        return "base" if self.kind == "align" else f"vlm-{self.round}"

    @property
    def layer(self) -> str:
        """Name of the caption layer that a recaption or filter stage is about."""
        return self.name.split("-", 1)[1] if self.name.endswith("-full") else f"round-{self.round}"


_ENGINE = ("recaption.quantization", "recaption.processor")
_PROMPTS = ("recaption.prompt_ids", "recaption.prompts")
_ALT_TEXT = ("fuse.prompted", "fuse.brief_prompt_id", "recaption.prompts", "train.shuffle_window", "seed")
_CORPUS = ("corpus.columns", "corpus.max_pixels")
_SFT = ("train.sft", "train.shuffle_window", "seed")
_EVALUATE = ("evaluate", *_ENGINE, "recaption.prompts")
_FUSED = (*_ALT_TEXT, "fuse.rule", "filters.cut_at_repeated_sentence")


def stages(config: Config) -> list[Stage]:
    """Every stage of a campaign that runs all its rounds, in order.

    Alignment reads alt text only, so it is the same work in every round and done once; each round then starts again
    from the same base weights and the aligned connector.
    """
    of: dict[str, tuple[str, ...]] = {name: config.corpus.sources_of(name) for name in get_args(TrainingStage)}
    mixed = {stage: tuple(f"corpus.sources.{name}" for name in names) for stage, names in of.items()}
    more = sorted(set(config.corpus.sources) - {"pretrain", "sft"})
    plan = [
        Stage("index", "index", corpora=("pretrain", "sft", "heldout", *more), fields=_CORPUS),
        Stage(
            "align", "align", None, ("index",), of["align"], True, fields=("train.align", *_ALT_TEXT, *mixed["align"])
        ),
    ]
    for k in range(config.rounds.max + 1):
        layer: tuple[str, ...] = ()
        text: tuple[str, ...] = ("train.pretrain", *mixed["pretrain"], *_ALT_TEXT)
        if k:
            plan += _captioning(config, f"{k}", k, k - 1)
            layer, text = (captions_of(config, f"round-{k}"), f"filter-{k}"), (*text, *_FUSED)
        plan += [
            Stage(f"pretrain-{k}", "pretrain", k, ("align", *layer), of["pretrain"], fields=text),
            Stage(f"sft-{k}", "sft", k, (f"pretrain-{k}",), of["sft"], fields=(*_SFT, *mixed["sft"])),
            Stage(f"evaluate-{k}", "evaluate", k, (f"sft-{k}",), ("heldout",), fields=_EVALUATE),
        ]
    if config.rounds.fraction < 1 and config.rounds.max:
        plan += _captioning(config, "full", None, None)
    plan = [_by_command(stage, config) for stage in plan]
    return _with_screening(plan, config) + [Stage(name, name) for name in LAST_STAGES]


def _by_command(stage: Stage, config: Config) -> Stage:
    """A training stage that a command takes over is other work: its words decide what is made."""
    return replace(stage, fields=(*stage.fields, "train.command")) if config.train.command_of(stage.kind) else stage


def _with_screening(plan: list[Stage], config: Config) -> list[Stage]:
    """The plan with verdicts on samples before anything is captioned or trained on, where any are configured.

    The screen stage's name holds rules and held-out pictures, not the corpus: shards that are added later are screened
    as well, and what was captioned before keeps its place.
    """
    if not config.screen.is_on:
        return plan
    compared = config.screen.finds_heldout or "pretrain" in config.corpus.sources_of("sft")
    readers = ("align", "pretrain", "recaption", *(("sft",) if compared else ()))
    corpora = ("heldout",) if config.screen.heldout else ()
    screen = Stage("screen", "screen", inputs=("index",), corpora=corpora, fields=("screen", *_CORPUS))
    later = [replace(s, inputs=(*s.inputs, screen.name)) if s.kind in readers else s for s in plan[1:]]
    return [plan[0], screen, *later]


def _captioning(config: Config, suffix: str, k: int | None, captioner: int | None) -> list[Stage]:
    """A recaptioning and the verdicts on it. The full pass names no captioner: the best round's is taken."""
    fields = ("recaption", "seed", *(("rounds.fraction",) if k is not None else ()))
    reads = (f"sft-{captioner}",) if captioner is not None else ()
    recaption = Stage(f"recaption-{suffix}", "recaption", k, reads, fields=fields)
    judged = tuple(captions_of(config, layer) for layer in layers_judged(config, recaption.layer))
    picks = ("pick",) if config.pick.by != "none" else ()
    by_scorer = config.pick.by == "scorer"
    judge = Stage(
        f"filter-{suffix}", "filter", k, judged, reads_scorer=by_scorer, fields=("filters", *_PROMPTS, *picks)
    )
    return [recaption, judge]


def layers_judged(config: Config, layer: str) -> tuple[str, ...]:
    """Layers that the filter stage of `layer` writes verdicts on and its round trains on, oldest first."""
    if config.pick.by == "none" or config.pick.layers == "latest" or not layer.startswith("round-"):
        return (layer,)
    return tuple(f"round-{k}" for k in range(1, int(layer.removeprefix("round-")) + 1))


def captions_of(config: Config, layer: str) -> str:
    """Name of the marker under which a layer's captions are read: its own, or that of the retried layer chosen."""
    return sealing_stage(config.layers.get(layer, layer))


def sealing_stage(layer: str) -> str:
    """Name of the stage that writes a layer: `round-2` → `recaption-2`."""
    return f"recaption-{layer.removeprefix('round-')}"


def layer_sealed_by(marker: str) -> str | None:
    """The reverse: `recaption-2-retry-1` → `round-2-retry-1`; None for a stage that writes no layer."""
    kind, _, suffix = marker.partition("-")
    if kind != "recaption":
        return None
    return suffix if suffix.startswith("full") else f"round-{suffix}"


def fields_of(stage: Stage, config: Config) -> dict[str, Any]:
    """The semantic fields that decide a stage's output, `dotted.name → value`."""
    every = semantic_fields(config, "")
    return {
        name: value
        for name, value in every.items()
        if any(name == prefix or name.startswith(prefix + ".") for prefix in stage.fields)
    }


def fingerprint(stage: Stage, config: Config, inputs: Mapping[str, str]) -> str:
    """64 hex characters; paths carry the first eight.

    `inputs` maps a name (a stage, `corpus:<source>` or `base`) to the digest of what is read from it.
    """
    work = {"kind": stage.kind, "fields": fields_of(stage, config), "inputs": dict(inputs)}
    return hashlib.sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()


def changed_fields(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Sentences `name was X, is Y` for the fields that differ, in order of name."""
    names = sorted(set(then) | set(now))
    return [f"{n} was {then.get(n)!r}, is {now.get(n)!r}" for n in names if then.get(n) != now.get(n)]


def select(plan: list[Stage], only: str | None, until: str | None, from_: str | None) -> list[Stage]:
    """The stages that `--only`, `--until` and `--from` leave. Raises ConfigError for a name that the plan lacks."""
    names = [stage.name for stage in plan]
    for option, name in (("--only", only), ("--until", until), ("--from", from_)):
        if name is not None and name not in names:
            raise ConfigError(option, name, f"no such stage; the stages are {', '.join(names)}")
    if only is not None:
        return [stage for stage in plan if stage.name == only]
    return plan[: names.index(until) + 1] if until is not None else plan
