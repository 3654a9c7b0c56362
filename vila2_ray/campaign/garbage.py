"""What of a campaign nothing needs any more: found by its markers and configured stages, shown, then deleted.

Kept, whatever happens: index, markers, ledger, metrics, report, exports and what was found for them; sealed layers,
their verdicts, finetuning conversations and the pack plans of finished stages; the aligned base, which every further
round starts from; the newest and the best model, the promoted one and the one before it, with their pretrain-stage
checkpoints, which specialists start from; specialists and the final model; whatever an unfinished stage of the
configuration reads or has begun. Where what a stage reads is not done yet, the names that its work will have are not
known, and all that lies under the stage's own name stays.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from vila2_ray.campaign import plan as plans
from vila2_ray.campaign.api import Campaign
from vila2_ray.campaign.inputs import current_fingerprint, observe
from vila2_ray.campaign.lease import Lease
from vila2_ray.campaign.promotion import read_promoted
from vila2_ray.campaign.view import Run
from vila2_ray.config import Config
from vila2_ray.errors import Vila2Error
from vila2_ray.storage import Store

_IMAGES = "images"
"""Stands for a layer's name where the screen stage keeps its verdicts and its unfinished work."""
_ORPHAN = "made under another configuration, or for no stage"


@dataclass(frozen=True)
class Garbage:
    """A folder that can go."""

    path: str
    """Relative to the campaign."""
    why: str
    num_files: int
    num_bytes: int


def find_garbage(campaign: Campaign) -> list[Garbage]:
    """Folders that nothing needs, in order of path. Changes nothing."""
    needed, store = _needed(campaign), campaign.store
    found: dict[str, Garbage] = {}
    for num_bytes, folder, why in _unneeded(store, needed):
        before = found.get(folder, Garbage(folder, why, 0, 0))
        found[folder] = replace(before, num_files=before.num_files + 1, num_bytes=before.num_bytes + num_bytes)
    return [found[folder] for folder in sorted(found)]


def collect(campaign: Campaign) -> Iterator[Garbage]:
    """Delete what `find_garbage` finds, one folder after the other. Raises CampaignBusy while a driver runs.

    Looks again once it holds the lease: a driver may have gone on since the list was shown.
    """
    with Lease(campaign.store) as lease:
        for garbage in find_garbage(campaign):
            lease.check()
            campaign.store.delete_tree(garbage.path)
            yield garbage


@dataclass
class _Needed:
    """Names that must stay. `<…>_open`: of begun or future work whose fingerprint is not known yet."""

    captions: set[tuple[str, str]] = field(default_factory=set)
    """(layer, fp8)."""
    layers_open: set[str] = field(default_factory=set)
    verdicts: set[str] = field(default_factory=set)
    """fp8 of filter stages."""
    verdicts_open: set[str] = field(default_factory=set)
    """Layers."""
    trained: set[tuple[str, str, str]] = field(default_factory=set)
    """(model, stage, fp8) of training stages, finished or not."""
    finished: set[tuple[str, str, str]] = field(default_factory=set)
    training_open: set[tuple[str, str]] = field(default_factory=set)
    checkpoints: set[tuple[str, str]] = field(default_factory=set)
    """(model, stage)."""
    conversations: set[tuple[str, str]] = field(default_factory=set)
    """(skill, fp8)."""
    conversations_open: set[str] = field(default_factory=set)


def _needed(campaign: Campaign) -> _Needed:
    work, needed = observe(campaign), _Needed()
    config, markers, best = work.config, work.markers, work.best_round
    plan = plans.stages(config)
    for name, marker in markers.items():
        _finished(needed, name, marker.fingerprint[:8])
    for stage in plan:
        if stage.name not in markers:
            _pending(needed, stage, _fingerprint(work, plan, stage), config, best)
    rounds = [int(about) for name in markers if name.startswith("sft-") and (about := name[4:]).isdigit()]
    others = {found[0] for name in markers if (found := plans.trained_by(name)) is not None and not name[-1].isdigit()}
    models = {f"vlm-{k}" for k in (best, max(rounds, default=best))} | others
    needed.checkpoints |= {("base", "align")} | {(model, stage) for model in models for stage in ("pretrain", "sft")}
    for entry in read_promoted(campaign.store)["history"][-2:]:
        _, model, stage_name = entry["checkpoint"].split("/")
        needed.checkpoints |= {(model, stage_name), (model, "pretrain")}
    return needed


def _finished(needed: _Needed, name: str, fp8: str) -> None:
    if (layer := plans.layer_sealed_by(name)) is not None:
        needed.captions.add((layer, fp8))
    elif name == "screen":
        needed.captions.add((_IMAGES, fp8))
        needed.verdicts.add(fp8)
    elif name.startswith("filter-"):
        needed.verdicts.add(fp8)
    elif name.startswith("build-"):
        needed.conversations.add((name.removeprefix("build-"), fp8))
    elif (trained := plans.trained_by(name)) is not None:
        needed.finished.add((*trained, fp8))
    needed.trained |= needed.finished


def _pending(needed: _Needed, stage: plans.Stage, fingerprint: str | None, config: Config, best: int) -> None:
    if stage.kind == "recaption":
        if fingerprint is None:
            needed.layers_open.add(stage.layer)
        else:
            needed.captions.add((stage.layer, fingerprint[:8]))
        captioner = stage.specialist or plans.model_of(f"{stage.round - 1 if stage.round else best}")
        needed.checkpoints.add((captioner, "sft"))
    elif stage.kind == "build":
        if fingerprint is None:
            needed.conversations_open.add(stage.about)
        else:
            needed.conversations.add((stage.about, fingerprint[:8]))
    elif stage.kind == "screen":
        needed.layers_open.add(_IMAGES)
        needed.verdicts_open.add(_IMAGES)
    elif stage.kind == "filter":
        if fingerprint is None:
            needed.verdicts_open |= set(plans.layers_judged(config, stage.layer))
        else:
            needed.verdicts.add(fingerprint[:8])
    elif stage.kind in ("align", "pretrain", "sft"):
        if fingerprint is None:
            needed.training_open.add((stage.model, stage.kind))
        else:
            needed.trained.add((stage.model, stage.kind, fingerprint[:8]))
        needed.checkpoints.add((stage.model, stage.kind))
        if stage.kind == "sft":
            needed.checkpoints.add((stage.model, "pretrain"))
    elif stage.kind == "evaluate":
        needed.checkpoints.add((stage.model, "sft"))
    for what in stage.of_best:  # which one is best is not known before the rounds are over
        if what != "layer":
            needed.checkpoints |= {(f"vlm-{k}", what) for k in range(config.rounds.max + 1)}


def _fingerprint(work: Run, plan: Sequence[plans.Stage], stage: plans.Stage) -> str | None:
    if "index" not in work.markers:
        return None  # asking for a corpus's digest would index it
    try:
        return current_fingerprint(work, list(plan), stage)
    except Vila2Error:
        return None  # a corpus or a folder of weights that cannot be read now


def _unneeded(store: Store, needed: _Needed) -> Iterator[tuple[int, str, str]]:
    """(bytes, folder that goes, why) of every file that nothing needs."""
    whole: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for num_bytes, (layer, fp8, file) in _files(store, "captions", 3):
        whole[layer, fp8].add(file.removesuffix(".parquet"))
        if (layer, fp8) not in needed.captions and layer not in needed.layers_open:
            yield num_bytes, f"captions/{layer}/{fp8}", f"captions {_ORPHAN}"
    for num_bytes, (layer, fp8, file) in _files(store, "parts", 3):
        shard = file.rpartition("/")[0]
        if (layer, fp8) not in needed.captions and layer not in needed.layers_open:
            yield num_bytes, f"parts/{layer}/{fp8}", f"parts {_ORPHAN}"
        elif shard in whole[layer, fp8]:
            yield num_bytes, f"parts/{layer}/{fp8}/{shard}", "parts of a finished shard"
    for num_bytes, (layer, fp8, _) in _files(store, "verdicts", 3):
        if fp8 not in needed.verdicts and layer not in needed.verdicts_open and not layer.startswith("release-"):
            yield num_bytes, f"verdicts/{layer}/{fp8}", f"verdicts {_ORPHAN}"
    for num_bytes, (skill, fp8, _) in _files(store, "conversations", 3):
        if (skill, fp8) not in needed.conversations and skill not in needed.conversations_open:
            yield num_bytes, f"conversations/{skill}/{fp8}", f"conversations {_ORPHAN}"
    for num_bytes, (title, fp8, _) in _files(store, "packs", 3):
        model, _, stage = title.rpartition("-")
        if (model, stage, fp8) not in needed.trained and (model, stage) not in needed.training_open:
            yield num_bytes, f"packs/{title}/{fp8}", f"a pack plan {_ORPHAN}"
    for num_bytes, (model, stage, fp8, _) in _files(store, "training", 4):
        if (model, stage, fp8) in needed.finished:
            yield num_bytes, f"training/{model}/{stage}/{fp8}", "training state of a finished stage"
        elif (model, stage, fp8) not in needed.trained and (model, stage) not in needed.training_open:
            yield num_bytes, f"training/{model}/{stage}/{fp8}", f"training state {_ORPHAN}"
    for num_bytes, (model, stage, _) in _files(store, "checkpoints", 3):
        if (model, stage) not in needed.checkpoints:
            why = "a checkpoint that is neither promoted, best, newest nor read by an unfinished stage"
            why = "left over from an interrupted export" if stage.startswith(".") else why
            yield num_bytes, f"checkpoints/{model}/{stage}", why


def _files(store: Store, folder: str, depth: int) -> Iterator[tuple[int, list[str]]]:
    """Bytes of each file and its `depth` parts below the folder, the last with all that follows."""
    for name, num_bytes in store.sizes(folder).items():
        parts = name.split("/", depth)[1:]
        if len(parts) == depth:
            yield num_bytes, parts
