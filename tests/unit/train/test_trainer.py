"""A whole stage in one process, from the shipped base."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from tests.unit.train import small
from vila2_ray.config import ScreenConfig
from vila2_ray.corpus.screening import ImageVerdicts, Screening, ShardScreen, Takedowns
from vila2_ray.model.loading import load_model, load_processor
from vila2_ray.progress import NullProgress
from vila2_ray.recipes.tiny import BASE_FOLDER
from vila2_ray.storage import Store
from vila2_ray.train.items import StageItems
from vila2_ray.train.tokenize import ItemTokenizer
from vila2_ray.train.trainer import train_in_process
from vila2_ray.train.work import open_source, read_plan, ready_plan


def test_each_stage_makes_a_checkpoint_that_the_next_starts_from(tmp_path: Path) -> None:
    folder: Path = BASE_FOLDER
    for name in ("align", "pretrain", "sft"):
        job = small.job(tmp_path, name, f"train.{name}.num_epochs=1", init=folder)
        summary = train_in_process(job, NullProgress())
        assert summary.num_steps == 3
        assert [step for step, _ in summary.losses] == [1, 2, 3]
        assert summary.num_samples == 12
        assert not job.state.list(suffix=".safetensors")  # no resumable state once it is done
        before, after = (dict(load_model(f).named_parameters()) for f in (folder, job.out.uri))
        changed = {name_ for name_ in before if not torch.equal(before[name_], after[name_])}
        assert any("projector" in name_ for name_ in changed)
        assert any("vision_tower" in name_ for name_ in changed) == (name == "sft")
        assert any("language_model" in name_ for name_ in changed) == (name != "align")
        folder = Path(job.out.uri)


def test_a_finished_stage_is_not_trained_again_and_changed_work_is(tmp_path: Path) -> None:
    job = small.job(tmp_path, "align", "train.align.num_epochs=1")
    first = train_in_process(job, NullProgress())
    marked = (tmp_path / "out" / "align" / "model.safetensors").stat().st_mtime_ns
    assert train_in_process(job, NullProgress()) == first
    assert (tmp_path / "out" / "align" / "model.safetensors").stat().st_mtime_ns == marked
    changed = small.job(
        tmp_path, "align", "train.align.num_epochs=1", "train.align.peak_lr=0.01", shards=tmp_path / "pretrain"
    )
    assert train_in_process(changed, NullProgress()).losses[1:] != first.losses[1:]


def test_the_plan_is_written_once_and_read_back(tmp_path: Path) -> None:
    job = small.job(tmp_path, "sft")
    plan = ready_plan(job, None, NullProgress())
    found = read_plan(job)
    assert found is not None
    assert found.digest == plan.digest
    assert dataclasses.astuple(found)[1:] == dataclasses.astuple(plan)[1:]


def test_planned_lengths_are_those_of_the_tokens(tmp_path: Path) -> None:
    job = small.job(tmp_path, "sft")
    source = open_source(job)
    plan = ready_plan(job, source, NullProgress())
    rows = plan.table.to_pylist()
    keys = [key for n in range(plan.num_sequences) for key in plan.sequence(n)]
    for row, tokens in zip(rows, open_source(job).tokens(keys), strict=True):
        assert row["num_tokens"] == len(tokens.input_ids)
        assert row["num_supervised"] == int(np.count_nonzero(tokens.supervised))


def test_an_image_that_decodes_only_in_its_header_is_masked(tmp_path: Path) -> None:
    shards = small.write_shards(tmp_path / "pretrain", bad=2)
    job = small.job(tmp_path, "align", "train.align.num_epochs=1", shards=shards)
    summary = train_in_process(job, NullProgress())
    assert summary.num_samples == 12
    assert summary.num_masked == 1


def test_text_and_images_of_a_shard_meet(tmp_path: Path) -> None:
    """Each item keeps its own text and picture: squares are told apart by colour, texts by number."""
    job = small.job(tmp_path, "align", "fuse.prompted=false")
    source, processor = open_source(job), load_processor(BASE_FOLDER)
    tokenizer = ItemTokenizer(processor, 128)
    assert len(list(StageItems(job.corpus, [], job.config, "align").of_shard(job.corpus.shards[1]))) == 6
    plan = ready_plan(job, source, NullProgress())
    for key in plan.sequence(0) + plan.sequence(5):
        (tokens,) = source.tokens([key])
        text = processor.tokenizer.decode(tokens.input_ids[tokens.supervised], skip_special_tokens=True)
        assert text == f"a picture of thing {int(key.shard)} {key.row}"
        (pixels,) = source.pixels(tokens.images)
        assert pixels is not None
        red, green, _ = ((pixels.mean((1, 2)) + 1) * 127.5).round().int().tolist()
        assert (red, green) == (40 * int(key.shard), 40 * key.row)
    assert tokenizer.pad_token_id == source.pad_token_id


def test_what_screening_or_a_takedown_leaves_out_is_not_in_the_plan(tmp_path: Path) -> None:
    job = small.job(tmp_path, "align", "train.align.num_epochs=1", "train.align.batch_size=1")
    store, path = Store(tmp_path / "takedown"), tmp_path / "list.txt"
    path.write_text("00000/001\n")
    verdicts = ImageVerdicts(Store(tmp_path / "verdicts"))
    for ref in job.corpus.shards:
        ShardScreen(job.corpus, verdicts, ScreenConfig(exact_duplicates=True))(ref)

    def planned(screening: Screening | None) -> set[tuple[str, int]]:
        now = dataclasses.replace(job, screening=screening)
        plan = ready_plan(now, None, NullProgress())
        assert read_plan(now) is not None
        return {(key.shard, key.row) for n in range(plan.num_steps) for key in plan.sequence(n)}

    everything = planned(None)
    assert len(everything) == 12
    assert planned(Screening(job.corpus, None, Takedowns.look(store, str(path)))) == everything - {("00000", 1)}
    table = verdicts.read("pretrain", "00001")
    flags = pa.array([["near_duplicate"] if row < 3 else [] for row in range(6)], pa.list_(pa.string()))
    verdicts.write("pretrain", "00001", table.set_column(table.schema.get_field_index("flags"), "flags", flags))
    path.write_text("00000/002\n")
    both = planned(Screening(job.corpus, verdicts, Takedowns.look(store, str(path))))
    left_out = {("00000", 1), ("00000", 2), *(("00001", row) for row in range(3))}
    assert both == everything - left_out
