"""A team's own trainer in a stage's place: what it is told, what becomes of what it makes, and of its failures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.unit.train import own_trainer, small
from vila2_ray.campaign import plan as plans
from vila2_ray.corpus.layers import Layer
from vila2_ray.errors import CheckpointError, StageFailed
from vila2_ray.model.loading import checkpoint_digest, load_model, load_processor
from vila2_ray.progress import NullProgress
from vila2_ray.recipe import load_config
from vila2_ray.recipes.tiny import BASE_FOLDER
from vila2_ray.schema import CAPTION
from vila2_ray.storage import Store
from vila2_ray.train.job import TrainingJob
from vila2_ray.train.trainer import run_training

SCRIPT = str(Path(own_trainer.__file__))


class Heard(NullProgress):
    """Remembers the updates."""

    def __init__(self) -> None:
        self.updates: list[tuple[int, dict[str, float | str]]] = []

    def update(self, done: int, **figures: float | str) -> None:
        self.updates.append((done, figures))


@pytest.fixture(autouse=True)
def _our_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(small.__file__).parents[3]))


def by_command(folder: Path, *words: str, stage: str = "align", **more: Any) -> TrainingJob:
    settings = (f"train.command={json.dumps(words)}", f"train.{stage}.num_epochs=1", f"train.{stage}.peak_lr=0.1")
    return small.job(folder, stage, *settings, "fuse.rule=concat", **more)


def by_shell(folder: Path, script: str, **more: Any) -> TrainingJob:
    """A command of the shell's, in which $out is where the folder goes and $state what is kept."""
    told = 'here=$(dirname "$0"); out=$here/out; state=$here/command; '
    return by_command(folder, "sh", "-c", told + script, **more)


def layer(folder: Path, num_shards: int = 2, size: int = 6) -> Layer:
    """A layer whose caption of row r in shard s is `seen s r`."""
    made = Layer(Store(folder / "captions" / "round-1"))
    for shard in range(num_shards):
        rows = [
            {
                "source": "pretrain", "shard": f"{shard:05d}", "row": row, "sample_id": f"{shard:05d}/{row:03d}",
                "image_sha256": "", "variant": 0, "status": "captioned", "text": f"seen {shard} {row}",
                "prompt_id": "detailed", "finish_reason": "stop", "num_output_tokens": 3,
                "mean_logprob": -0.1, "min_logprob": -0.2,
            }
            for row in range(size)
        ]  # fmt: skip
        table = CAPTION.empty_table().from_pylist(rows, CAPTION)
        made.store.write_table(made.path("pretrain", f"{shard:05d}"), table)
    return made


def test_it_trains_on_shards_and_layers_and_its_folder_is_the_stages(tmp_path: Path) -> None:
    heard = Heard()
    job = by_command(tmp_path, sys.executable, SCRIPT, stage="pretrain", layers=[(layer(tmp_path), None)])
    summary = run_training(job, heard)
    assert summary.num_samples == 12 == len(summary.losses) == sum("loss" in told for _, told in heard.updates)
    assert summary.losses[0] == (1, summary.first_loss)
    assert summary.digest == checkpoint_digest(job.out.uri)
    before, after = load_model(BASE_FOLDER), load_model(job.out.uri)
    changed = {n for n, p in before.named_parameters() if not torch.equal(p, after.get_parameter(n))}
    assert changed
    assert all("projector" in name for name in changed)
    load_processor(job.out.uri)
    assert not job.out.exists("pretraining.json")

    told = json.loads(Path(job.state.uri, "manifest.json").read_text())
    assert (told["stage"], told["model"], told["seed"], told["num_steps"]) == ("pretrain", "m", 0, 3)
    assert told["settings"]["trained"] == ["connector", "language"]
    assert told["prompts"]["detailed"] == job.config.recaption.prompts["detailed"]
    assert [(s["source"], s["kind"], len(s["shards"])) for s in told["sources"]] == [("pretrain", "pairs", 2)]
    assert pq.read_metadata(told["plan"]).num_rows == 12
    lines = Path(job.state.uri, "command.log").read_text().splitlines()
    said = [json.loads(line) for line in lines if line.startswith("{")]
    assert said[7]["text"] == "a picture of thing 1 1 seen 1 1"

    assert run_training(job, Heard()) == summary, "what is finished is not trained again"
    other = by_shell(tmp_path, "true", stage="pretrain", layers=job.layers, shards=tmp_path / "pretrain")
    with pytest.raises(CheckpointError, match=r"has no config\.json"):  # another command is other work
        run_training(other, NullProgress())


def test_a_failure_names_code_log_and_last_lines_and_the_next_run_goes_on(tmp_path: Path) -> None:
    job = by_shell(
        tmp_path,
        "if [ ! -e $state/kept ]; then touch $state/kept $out/half; echo out of money; exit 9; fi; "
        f"[ -e $out/half ] && exit 8; cp {BASE_FOLDER}/config.json {BASE_FOLDER}/*.safetensors $out",
    )
    with pytest.raises(StageFailed, match=r"align m: sh .* exit code 9(?s:.*)out of money") as failed:
        run_training(job, NullProgress())
    assert job.state.path("command.log") in str(failed.value)
    assert not job.out.exists("config.json")
    summary = run_training(job, NullProgress())
    assert (summary.losses, summary.first_loss) == ([], None)
    assert summary.digest == checkpoint_digest(job.out.uri)
    load_processor(job.out.uri)


def test_a_folder_that_is_not_what_was_asked_for_is_refused(tmp_path: Path) -> None:
    weights = load_file(BASE_FOLDER / "model.safetensors")
    config = json.loads((BASE_FOLDER / "config.json").read_text())
    name = "model.multi_modal_projector.linear_1.bias"
    for kind, said in (("other", "is a llava, but training began with a vila"), ("nan", f"no numbers, {name}")):
        made = tmp_path / kind
        made.mkdir()
        torn = {**weights, name: weights[name] * (float("nan") if kind == "nan" else 1)}
        save_file(torn, made / "model.safetensors", metadata={"format": "pt"})
        changed = {**config, "model_type": "llava"} if kind == "other" else config
        (made / "config.json").write_text(json.dumps(changed))
        job = by_shell(tmp_path / f"run-{kind}", f"cp {made}/* $out")
        with pytest.raises(CheckpointError, match=said):
            run_training(job, NullProgress())
        assert not job.out.exists("config.json")


def test_a_program_that_is_not_there_is_told(tmp_path: Path) -> None:
    job = small.job(tmp_path, "align", "train.command=[surely-not-a-program]")
    with pytest.raises(StageFailed, match=r"train\.command cannot be started: surely-not-a-program"):
        run_training(job, NullProgress())


def test_the_commands_words_name_the_work_of_its_stages_alone() -> None:
    def fields(*settings: str) -> dict[str, set[str]]:
        config = load_config("tiny", ["rounds.max=1", "specialists=[]", *settings])
        return {stage.name: set(plans.fields_of(stage, config)) for stage in plans.stages(config)}

    none, every = fields(), fields("train.command=[torchrun,mine.py]")
    some = fields("train.command=[torchrun,mine.py]", "train.command_stages=[pretrain]")
    trained = {"align", "pretrain-0", "sft-0", "pretrain-1", "sft-1"}
    assert {name for name in none if every[name] != none[name]} == trained
    assert {name for name in none if some[name] != none[name]} == {"pretrain-0", "pretrain-1"}
    assert every["align"] - none["align"] == {"train.command"}
