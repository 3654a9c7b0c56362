"""A team's own trainer in a stage's place: a manifest goes in, a Hugging Face folder comes out.

`train.command` is started with the path of a JSON file as its last argument (see `manifest`). It may train however and
wherever it likes, and ends with exit code 0 when `out` holds the finished weights. What it prints is kept in a log; a
line that is a JSON object with `step` and `loss` is shown as progress and remembered. What it keeps in `state` is there
again when the stage is run again after an interruption; `out` is then empty once more.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from vila2_ray.captions.prompts import Prompts
from vila2_ray.engines.choice import vllm_problem
from vila2_ray.errors import CheckpointError, StageFailed
from vila2_ray.model.loading import check_checkpoint, checkpoint_digest, load_model, load_processor
from vila2_ray.progress import Progress
from vila2_ray.storage import Store, absolute
from vila2_ray.train.children import run_child
from vila2_ray.train.job import TrainingJob, TrainingSource, TrainingSummary, thinned
from vila2_ray.train.packplan import PackPlan
from vila2_ray.train.proof import answers, check_served
from vila2_ray.train.work import read_finished, ready_plan

FORMAT_VERSION = 1
_FINISHED, _PLAN = "finished.json", "plan.parquet"
_LOG, _MANIFEST = "command.log", "manifest.json"
_BESIDE = (
    *("tokenizer", "processor_config", "preprocessor_config", "chat_template", "special_tokens_map"),
    *("added_tokens", "vocab", "merges", "generation_config"),
)
"""Beginnings of files that a trainer need not write: what `init` has of them and `out` lacks is taken over."""
_SAID_LINES = 5


def run_external(job: TrainingJob, progress: Progress) -> TrainingSummary:
    """The whole stage by `train.command`, started on this machine; at once where it is finished already.

    Raises StageFailed when the command cannot be started or fails, CheckpointError for a folder that cannot be used.
    """
    command = job.config.train.command_of(job.stage)
    plan = ready_plan(job, None, progress)
    work = hashlib.sha256(f"{job.work_key(plan.digest)}{json.dumps(command)}".encode()).hexdigest()
    if (summary := read_finished(job, work)) is not None:
        return summary
    began = time.monotonic()
    with _workplace(job.state) as place:
        losses = _run(job, plan, command, place, progress)
        digest = _take(job, place / "out")
    summary = TrainingSummary(
        num_steps=plan.num_steps,
        num_samples=plan.num_items,
        num_tokens=plan.num_tokens,
        num_supervised=plan.num_supervised,
        seconds=time.monotonic() - began,
        first_loss=losses[0][1] if losses else None,
        last_loss=losses[-1][1] if losses else None,
        losses=[losses[step - 1] for step, _ in thinned([loss for _, loss in losses])],
        digest=digest,
        real_token_share=plan.real_token_share(job.settings.micro_batch_size),
        num_masked=0,
        num_truncated=int(job.packs.read_metadata(_PLAN)["num_truncated"]),
        num_dropped=plan.num_too_long + plan.num_empty,
        by_source=plan.by_source(),
    )
    job.state.write_text(_FINISHED, json.dumps({"work": work, "summary": asdict(summary)}))
    return summary


def manifest(job: TrainingJob, plan: PackPlan, out: Path) -> dict[str, Any]:
    """What the command is told. URIs are local paths or pyarrow.fs URIs; `init` and `out` are local folders.

    `plan` names every training item in training order: step t is the sequences [t·G, (t+1)·G) for G = batch_size. An
    item that is not in it was screened out, taken down, or is too long; it must not be trained on. Row n of a shard's
    caption file with variant v belongs to the n-th sample of the shard; rows of its verdicts with flags are left out,
    and where their `text` is not null, it is trained on, uncut, in the caption's place.
    Captions of a layer that names a specialist answer one of that skill's `questions`; by themselves they are nothing.
    Of a source with `apart`, every question of a conversation with its answer is an item; of one without `alt_text`,
    only the layers are trained on.
    """
    config = job.config
    init = job.init_folder.uri if isinstance(job.init_folder, Store) else absolute(str(job.init_folder))
    return {
        "format_version": FORMAT_VERSION,
        "stage": job.stage,
        "model": job.model_name,
        "settings": asdict(job.settings),
        "seed": config.seed,
        "num_workers": config.train.num_workers,
        "cpus_per_worker": config.train.cpus_per_worker,
        "gpus_per_worker": config.train.gpus_per_worker,
        "init": str(job.init),
        "init_uri": init,
        "out": str(out),
        "state": job.state.sub("command").uri,
        "plan": job.packs.path(_PLAN),
        "num_steps": plan.num_steps,
        "sources": [_told(source) for source in job.sources],
        "fuse": asdict(config.fuse),
        "cut_at_repeated_sentence": config.filters.cut_at_repeated_sentence,
        "prompts": Prompts((), config.recaption.prompts).texts,
        "turns": config.skills.turns,
        "asks_statements": config.skills.asks_statements,
        "questions": {
            skill: list(config.skills.questions(skill)) for source in job.sources for skill in _skills(source)
        },
    }


def _skills(source: TrainingSource) -> list[str]:
    return [skill for skill, _, _ in source.specialists]


def _told(source: TrainingSource) -> dict[str, Any]:
    """A source's shards, each with the files of its caption layers."""
    corpus = source.corpus
    shards = []
    for ref in corpus.shards:
        layers = [
            {
                "captions": layer.store.path(layer.path(ref.source, ref.shard)),
                "verdicts": verdicts.store.path(verdicts.path(ref.source, ref.shard)) if verdicts else None,
                "specialist": skill,
            }
            for skill, layer, verdicts in (*(("", *told) for told in source.layers), *source.specialists)
        ]
        shards.append({"shard": ref.shard, "uri": ref.uri, "kind": ref.kind, "images": ref.images, "layers": layers})
    return {
        "source": corpus.source,
        "kind": source.kind,
        "share": source.share._asdict(),
        "apart": source.apart,
        "alt_text": source.alt_text,
        "columns": asdict(corpus.columns),
        "max_pixels": corpus.max_pixels,
        "shards": shards,
    }


@contextmanager
def _workplace(state: Store) -> Iterator[Path]:
    """A local folder for manifest, log and `out`: within the campaign where that is local, so that it can be looked at.

    Elsewhere a temporary one, whose log and manifest are copied to the campaign.
    """
    if state.is_local:
        yield Path(state.uri)
        return
    with tempfile.TemporaryDirectory(prefix="vila2-command-") as scratch:
        try:
            yield Path(scratch)
        finally:
            for name in (_LOG, _MANIFEST):
                if (file := Path(scratch, name)).is_file():
                    state.write_bytes(name, file.read_bytes())


def _run(
    job: TrainingJob, plan: PackPlan, command: tuple[str, ...], place: Path, progress: Progress
) -> list[tuple[int, float]]:
    """Start the command and wait for it; the (step, loss) pairs that it told, a step's last word."""
    out, file, log = place / "out", place / _MANIFEST, place / _LOG
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    if job.state.is_local:
        Path(job.state.sub("command").uri).mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(manifest(job, plan, out), indent=1), encoding="utf-8")
    told: dict[int, float] = {}

    def hear(line: str) -> None:
        if (said := _figures(line)) is not None:
            told[said[0]] = said[1]
            progress.update(said[0], loss=said[1])

    progress.start(job.title, plan.num_steps, "steps")
    try:
        ended = run_child([*command, str(file)], log, on_line=hear)
    except OSError as error:
        raise StageFailed(f"{job.title}: train.command cannot be started: {error}") from error
    if ended.code:
        tail = "\n  ".join(ended.tail[-_SAID_LINES:])
        raise StageFailed(
            f"{job.title}: {command[0]} ended with exit code {ended.code}. Its log is {job.state.path(_LOG)}, its "
            f"manifest beside it. Run the campaign again to start it again. Its last lines:\n  {tail}"
        )
    progress.finish()
    return sorted(told.items())


def _figures(line: str) -> tuple[int, float] | None:
    """(step, loss) of a line that tells them."""
    if not line.startswith("{"):
        return None
    try:
        said = json.loads(line)
        step, loss = int(said["step"]), float(said["loss"])
    except (ValueError, KeyError, TypeError):
        return None
    return (step, loss) if math.isfinite(loss) else None


def _take(job: TrainingJob, made: Path) -> str:
    """Check what the command made and put it in the stage's place; its digest."""
    for file in sorted(job.init.iterdir()):
        if file.name.startswith(_BESIDE) and not (made / file.name).exists():
            shutil.copyfile(file, made / file.name)
    check_checkpoint(made)
    kind, wanted = _model_type(made), _model_type(job.init)
    if kind != wanted:
        raise CheckpointError(str(made), f"is a {kind}, but training began with a {wanted}")
    bad = [name for name, p in load_model(made).named_parameters() if not torch.isfinite(p).all()]
    if bad:
        raise CheckpointError(str(made), f"holds weights that are no numbers, {bad[0]} among them")
    processor = load_processor(made)
    if job.config.train.check_with_vllm and not vllm_problem():
        check_served(made, answers(load_model(made, torch.float32), processor), job.config.recaption.engine)
    digest = checkpoint_digest(made)
    job.out.delete_tree()
    if job.out.is_local:
        Path(job.out.uri).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(made, job.out.uri)
    else:
        job.out.upload_folder(made)
    return digest


def _model_type(folder: Path) -> str:
    return str(json.loads((folder / "config.json").read_text("utf-8")).get("model_type"))
