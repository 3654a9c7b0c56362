"""What a campaign consists of: its stages in order, what each reads, and the fingerprint that names its work. Pure.

A stage's fingerprint hashes the semantic fields that it reads and the digests of its inputs: the same work always has
the same name. Numbers of rounds, budgets, pool sizes and paths are in none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from vila2_ray.config import Config, SkillName, StageConfig, TrainingStage, semantic_fields
from vila2_ray.errors import ConfigError
from vila2_ray.skills.family import PROMPTS

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
    of_best: tuple[Literal["pretrain", "sft", "layer"], ...] = ()
    """What it reads of the round that is best once the rounds are over: checkpoints, the layer that it trained on."""
    reads_base: bool = False
    reads_scorer: bool = False
    reads_votes: bool = False
    reads_boxes: bool = False
    """Of the skill's annotations or detector."""
    skills: tuple[SkillName, ...] = ()
    """Skills that it is about: a specialist's one, all of the final model's."""
    fields: tuple[str, ...] = ()
    """Dotted prefixes of the semantic configuration fields that decide its output."""

    @property
    def about(self) -> str:
        """What its name ends with: a round, `full`, a specialist's skill or `final`."""
        return self.name.partition("-")[2]

    @property
    def specialist(self) -> SkillName | None:
        """The skill whose specialist the stage is about."""
        return self.skills[0] if self.about in self.skills else None

    @property
    def is_final(self) -> bool:
        """Whether it is about the model that learns from the specialists."""
        return self.about == "final"

    @property
    def model(self) -> str:
        """Name of the model that it trains or scores: `base` for the shared alignment, `vlm-2`, `ocr`, `vlm-final`."""
        return "base" if self.kind == "align" else model_of(self.about)

    @property
    def layer(self) -> str:
        """Name of the caption layer that a recaption or filter stage is about: `round-2`, `full`, `ocr`."""
        return layer_of(self.about)


def model_of(about: str) -> str:
    """`2` → `vlm-2`, `final` → `vlm-final`; a specialist is called by its skill."""
    return f"vlm-{about}" if about.isdigit() or about == "final" else about


def layer_of(about: str) -> str:
    """`2` → `round-2`, `2-retry-1` → `round-2-retry-1`; `full` and a specialist's layer have no other name."""
    return f"round-{about}" if about[:1].isdigit() else about


_ENGINE = ("recaption.quantization", "recaption.processor")
_PROMPTS = ("recaption.prompt_ids", "recaption.prompts")
_ALT_TEXT = ("fuse.prompted", "fuse.brief_prompt_id", "recaption.prompts", "train.shuffle_window", "seed")
_CORPUS = ("corpus.columns", "corpus.max_pixels")
_SFT = ("train.sft", "train.shuffle_window", "seed")
_BENCHMARKS = "evaluate.benchmarks."
_EVALUATE = ("evaluate", *_ENGINE, "recaption.prompts")
_FUSED = (*_ALT_TEXT, "fuse.rule", "filters.cut_at_repeated_sentence")
_SAMPLING = tuple(f"recaption.sampling.{name}" for name in ("temperature", "top_p", "min_tokens"))
"""Of a specialist's captions; max_tokens is the skill's own."""


def stages(config: Config) -> list[Stage]:
    """Every stage of a campaign that runs all its rounds and whose specialists are worth it, in order.

    Alignment reads alt text only, so it is the same work in every round and done once; each round then starts again
    from the same base weights and the aligned connector.
    """
    of: dict[str, tuple[str, ...]] = {name: config.corpus.sources_of(name) for name in get_args(TrainingStage)}
    mixed = {stage: tuple(f"corpus.sources.{name}" for name in names) for stage, names in of.items()}
    more = sorted(set(config.corpus.sources) - {"pretrain", "sft"})
    more += [name for skill in config.specialists for name in config.corpora_of(skill)]
    plan = [
        Stage("index", "index", corpora=("pretrain", "sft", "heldout", *more), fields=_CORPUS),
        Stage(
            "align",
            "align",
            inputs=("index",),
            corpora=of["align"],
            reads_base=True,
            fields=("train.align", *_ALT_TEXT, *mixed["align"]),
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
    for skill in config.specialists:
        plan += _specialist(config, skill)
    if config.specialists:
        plan += _final(config, of, mixed)
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

    def is_read_by(stage: Stage) -> bool:
        if stage.kind == "build" or (stage.kind == "sft" and stage.specialist):
            return "pretrain" in stage.corpora or (config.screen.finds_heldout and bool(stage.corpora))
        reads = compared or "pretrain" in stage.corpora
        return stage.kind in ("align", "pretrain", "recaption") or (stage.kind == "sft" and reads)

    corpora = ("heldout",) if config.screen.heldout else ()
    screen = Stage("screen", "screen", inputs=("index",), corpora=corpora, fields=("screen", *_CORPUS))
    later = [replace(s, inputs=(*s.inputs, screen.name)) if is_read_by(s) else s for s in plan[1:]]
    return [plan[0], screen, *later]


def _specialist(config: Config, skill: SkillName) -> list[Stage]:
    """Conversations where there are none yet, the specialist, its scores, its captions and the verdicts on them."""
    settings, own, about = config.skills.of(skill), f"skills.{skill}", (skill,)
    prompts = (f"{own}.prompt_ids", "recaption.prompts")
    asked = (*prompts, f"{own}.questions")
    build: list[Stage] = []
    if not settings.data:
        images = (f"{skill}.images",) if settings.images else ("pretrain",)
        found = (f"{own}.labels", f"{own}.min_score", f"{own}.max_samples")
        fields = (*found, *asked, *_CORPUS, "seed")
        build = [
            Stage(f"build-{skill}", "build", None, ("index",), images, reads_boxes=True, skills=about, fields=fields)
        ]
    learned = ("skills.train", "train.shuffle_window", "seed")
    read = f"{own}.min_score"  # confidence of the experts that captions are held against
    kept = () if settings.drop_lowest_min_logprob_share is None else (f"{own}.drop_lowest_min_logprob_share",)
    scored = (*_EVALUATE, *asked, f"{own}.max_tokens", *((read,) if skill == "ocr" else ()))
    said = (*prompts, f"{own}.max_tokens", *_ENGINE, *_SAMPLING, "seed")
    return [
        *build,
        Stage(
            f"sft-{skill}",
            "sft",
            inputs=tuple(stage.name for stage in build),
            corpora=() if build else (f"{skill}.data",),
            of_best=("pretrain",),
            skills=about,
            fields=learned,
        ),
        Stage(
            f"evaluate-{skill}",
            "evaluate",
            inputs=(f"sft-{skill}",),
            corpora=("heldout",),
            of_best=("sft",),
            skills=about,
            fields=scored,
        ),
        Stage(
            f"recaption-{skill}", "recaption", None, (f"sft-{skill}", f"evaluate-{skill}"), skills=about, fields=said
        ),
        Stage(
            f"filter-{skill}",
            "filter",
            inputs=(captions_of(config, skill),),
            reads_votes=bool(config.pick.votes),
            reads_boxes=boxes_are_known(config, skill),
            skills=about,
            fields=("filters", *prompts, read, *kept),
        ),
    ]


def _final(config: Config, of: Mapping[str, tuple[str, ...]], mixed: Mapping[str, tuple[str, ...]]) -> list[Stage]:
    """Base weights trained again on alt text, the best round's layer and the specialists', then finetuned, scored."""
    skills = config.specialists
    layers = tuple(name for skill in skills for name in (captions_of(config, skill), f"filter-{skill}"))
    asked = tuple(f"skills.{skill}.questions" for skill in skills)
    scored = [f"skills.{skill}.{name}" for skill in skills for name in ("prompt_ids", "max_tokens")]
    scored += ["skills.ocr.min_score"] if "ocr" in skills else []
    fused = tuple(f"skills.{name}" for name in ("turns", "asks_statements", "max_length"))
    learned = ("train.pretrain", *mixed["pretrain"], *_FUSED, *fused, *asked)
    sft = Stage("sft-final", "sft", None, ("pretrain-final",), of["sft"], skills=skills, fields=(*_SFT, *mixed["sft"]))
    if rehearses(sft, config):
        again = ("skills.rehearsal", *fused, *asked, "filters.cut_at_repeated_sentence")
        inputs, corpora = (*sft.inputs, *layers), (*sft.corpora, "pretrain")
        sft = replace(sft, inputs=inputs, corpora=corpora, fields=(*sft.fields, *again))
    return [
        Stage(
            "pretrain-final",
            "pretrain",
            inputs=("align", *layers),
            corpora=of["pretrain"],
            of_best=("layer",),
            skills=skills,
            fields=learned,
        ),
        sft,
        Stage(
            "evaluate-final",
            "evaluate",
            inputs=("sft-final",),
            corpora=("heldout",),
            skills=skills,
            fields=(*_EVALUATE, *asked, *scored),
        ),
    ]


def rehearses(stage: Stage, config: Config) -> bool:
    """Whether it asks what specialists answered once more, beside the SFT set."""
    return stage.is_final and stage.kind == "sft" and config.skills.rehearsal > 0


def boxes_are_known(config: Config, skill: str) -> bool:
    """Whether annotations tell of the images that are captioned: those of other images would be taken for theirs."""
    settings = config.skills.of(skill)
    return bool(settings.annotations) and settings.images in ("", config.corpus.pretrain)


def inputs_of(stage: Stage, config: Config, best: int) -> tuple[str, ...]:
    """Names of the stages whose output it reads, if `best` is the best round."""
    names: list[str] = []
    for what in stage.of_best:
        if what != "layer":
            names.append(f"{what}-{best}")
        elif layer := best_layer(config, best):
            names += [captions_of(config, judged) for judged in layers_judged(config, layer)]
            names.append(f"filter-{layer.removeprefix('round-')}")
    return (*names, *stage.inputs)


def best_layer(config: Config, best: int) -> str:
    """The layer that the final model is trained on beside the specialists': the best round's, or the full pass that
    goes on from it; "" where no round was better than VLM_0.
    """
    if not best:
        return ""
    return "full" if config.rounds.fraction < 1 else f"round-{best}"


def settings_of(stage: Stage, config: Config) -> StageConfig:
    """How a training stage trains."""
    if stage.specialist:
        return config.skills.train
    settings = config.train.stage(stage.kind)
    if rehearses(stage, config):
        return replace(settings, max_length=max(settings.max_length, config.skills.max_length))
    longer = config.skills.max_length if stage.is_final and stage.kind == "pretrain" else 0
    return replace(settings, max_length=longer or settings.max_length)


def _captioning(config: Config, suffix: str, k: int | None, captioner: int | None) -> list[Stage]:
    """A recaptioning and the verdicts on it. The full pass names no captioner: the best round's is taken."""
    fields = ("recaption", "seed", *(("rounds.fraction",) if k is not None else ()))
    reads = (f"sft-{captioner}",) if captioner is not None else ()
    recaption = Stage(
        f"recaption-{suffix}", "recaption", k, reads, of_best=("sft",) if captioner is None else (), fields=fields
    )
    judged = tuple(captions_of(config, layer) for layer in layers_judged(config, recaption.layer))
    picks = ("pick",) if config.pick.by != "none" else ()
    by_scorer = config.pick.by == "scorer"
    judge = Stage(
        f"filter-{suffix}",
        "filter",
        k,
        judged,
        reads_scorer=by_scorer,
        reads_votes=bool(config.pick.votes),
        fields=("filters", *_PROMPTS, *picks),
    )
    return [recaption, judge]


def layers_judged(config: Config, layer: str) -> tuple[str, ...]:
    """Layers that the filter stage of `layer` writes verdicts on and its round trains on, oldest first."""
    picks = config.pick.by != "none" or config.pick.votes
    if not picks or config.pick.layers == "latest" or not layer.startswith("round-"):
        return (layer,)
    return tuple(f"round-{k}" for k in range(1, int(layer.removeprefix("round-")) + 1))


def captions_of(config: Config, layer: str) -> str:
    """Name of the marker under which a layer's captions are read: its own, or that of the retried layer chosen."""
    return sealing_stage(config.layers.get(layer, layer))


def sealing_stage(layer: str) -> str:
    """Name of the stage that writes a layer: `round-2` → `recaption-2`, `ocr` → `recaption-ocr`."""
    return f"recaption-{layer.removeprefix('round-')}"


def layer_sealed_by(marker: str) -> str | None:
    """The reverse: `recaption-2-retry-1` → `round-2-retry-1`; None for a stage that writes no layer."""
    kind, _, about = marker.partition("-")
    return layer_of(about) if kind == "recaption" else None


def trained_by(marker: str) -> tuple[str, str] | None:
    """The model and stage of a finished training stage: `sft-ocr` → (`ocr`, `sft`); None for other stages."""
    kind, _, about = marker.partition("-")
    if kind not in get_args(TrainingStage):
        return None
    return ("base" if kind == "align" else model_of(about)), kind


def fields_of(stage: Stage, config: Config) -> dict[str, Any]:
    """The semantic fields that decide a stage's output, `dotted.name → value`."""
    every = {**semantic_fields(config, ""), "recaption.prompts": _prompts_of(stage, config)}
    return {
        name: value
        for name, value in every.items()
        if any(name == prefix or name.startswith(prefix + ".") for prefix in stage.fields)
        and (not name.startswith(_BENCHMARKS) or _decides(name, stage, config))
    }


def _decides(field: str, stage: Stage, config: Config) -> bool:
    """Whether a benchmark's field is of the one that the rounds go by: the others may come and go."""
    return not stage.specialist and field.startswith(f"{_BENCHMARKS}{config.rounds.metric.partition('.')[0]}.")


def _prompts_of(stage: Stage, config: Config) -> dict[str, str]:
    """The configured prompts but for those that only other skills' specialists ask: a skill that is added later
    changes no stage of the others.
    """
    skills = get_args(SkillName)
    ids = {skill: {*PROMPTS[skill], *config.skills.prompt_ids(skill)} for skill in skills}
    asked = {*config.recaption.prompt_ids, config.fuse.brief_prompt_id, config.evaluate.prompt_id}
    asked |= {prompt_id for skill in stage.skills for prompt_id in ids[skill]}
    others = {prompt_id for skill in skills for prompt_id in ids[skill]}
    return {k: text for k, text in config.recaption.prompts.items() if k in asked or k not in others}


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
