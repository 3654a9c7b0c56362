"""The whole pipeline on a small cluster: exactly once, on the right sample, whatever dies in between."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import pyarrow as pa
import pytest

from tests.unit.recaption.pictures import Known, bad_pictures, make_job, write_shards
from vila2_ray.config import EngineConfig
from vila2_ray.corpus.layers import Parts
from vila2_ray.engines.fake import fake_caption
from vila2_ray.errors import BudgetSpent, CheckpointError, StageFailed, StorageError
from vila2_ray.progress import NullProgress
from vila2_ray.recaption.job import RecaptionJob
from vila2_ray.recaption.pipeline import recaption

pytestmark = pytest.mark.usefixtures("ray_cluster")


class Course(NullProgress):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.total, self.done = 0, [0]
        self.figures: dict[str, float | str] = {}

    def start(self, stage: str, total: int, unit: str) -> None:
        self.total = total

    def update(self, done: int, **figures: float | str) -> None:
        self.done.append(done)
        self.figures = figures


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Known]:
    """Four shards, one of them empty, with a bad picture of every kind."""
    folder = tmp_path_factory.mktemp("recaption")
    bad = {(0, 5 + 20 * number): data for number, data in enumerate(bad_pictures().values())}
    return folder, write_shards(folder / "corpus", [70, 33, 0, 16], bad)


def check(job: RecaptionJob, known: Known) -> None:
    """Every sample once, in order, with its own caption or, where none can be, a reason."""
    rows = job.layer.to_table().to_pylist()
    variants = range(job.config.num_variants)
    assert [(row["shard"], row["row"], row["variant"]) for row in rows] == [
        (*key, v) for key in known for v in variants
    ]
    for row in rows:
        digest = known[row["shard"], row["row"]]
        if digest:
            assert row["text"] == fake_caption(digest, job.prompts.text(row["prompt_id"]))
        else:
            assert (row["status"], row["text"]) == ("failed", None)
            assert row["error"] in bad_pictures()
    assert job.parts.ranges() == {}


def image_key(job: RecaptionJob, shard: str, row: int) -> str:
    return hashlib.sha256(next(job.corpus.read(shard, [row])).image or b"").hexdigest()


def test_every_sample_gets_its_own_caption_exactly_once(corpus: tuple[Path, Known]) -> None:
    folder, known = corpus
    engine = EngineConfig(name="fake", batch_size=8, max_actors=2, cpus_per_actor=0.5)
    job, course = make_job(folder, "once", num_variants=2, engine=engine), Course()
    summary = recaption(job, course)
    check(job, known)
    assert (summary.num_rows, summary.num_samples, summary.num_shards) == (119, 119, 4)
    assert (summary.num_captioned, summary.num_failed, summary.num_kept, summary.num_not_selected) == (232, 6, 0, 0)
    assert summary.num_tokens == sum(row["num_output_tokens"] or 0 for row in job.layer.to_table().to_pylist())
    assert course.total == course.done[-1] == 119
    assert course.done == sorted(course.done)
    counts = {name: course.figures[name] for name in ("images", "captions", "output_tokens", "ranges_left")}
    assert list(counts.values()) == [119, 232, summary.num_tokens, 0]
    assert {name: count for name, count in course.figures.items() if name.startswith("dead_letters.")} == {
        f"dead_letters.{reason}": 2 for reason in bad_pictures()
    }
    told = job.layer.metadata("pretrain", "00000")
    assert (told["layer"], told["engine"], told["num_variants"]) == ("round-1", "fake 1", "2")
    again = recaption(job, Course())
    assert (again.num_samples, again.num_shards) == (0, 0)


def test_only_what_is_missing_is_done_and_nothing_else_changes(corpus: tuple[Path, Known]) -> None:
    folder, known = corpus
    whole = make_job(folder, "whole")
    recaption(whole, NullProgress())
    job, course = make_job(folder, "begun"), Course()
    table = whole.layer.read("pretrain", "00000")
    job.parts.write("pretrain", "00000", 16, 32, table.slice(16, 16))
    job.parts.write("pretrain", "00003", 0, 16, whole.layer.read("pretrain", "00003"))  # whole, but not finished
    job.layer.write("pretrain", "00001", whole.layer.read("pretrain", "00001"))
    summary = recaption(job, course)
    assert summary.num_samples == 70 - 16
    assert course.done[1] == 119 - 54
    check(job, known)
    assert job.layer.to_table().equals(whole.layer.to_table())


def test_the_last_full_pass_keeps_what_was_captioned(corpus: tuple[Path, Known]) -> None:
    folder, known = corpus
    part = make_job(folder, "part", fraction=0.5)
    some = recaption(part, NullProgress())
    assert 30 < some.num_not_selected < 90
    full = make_job(folder, "full", keep=part.layer, prompt_ids=("brief",))
    summary = recaption(full, NullProgress())
    assert (summary.num_kept, summary.num_not_selected) == (some.num_captioned, 0)
    assert summary.num_captioned + summary.num_kept == 116
    check(full, known)
    prompts = [row["prompt_id"] for row in full.layer.to_table().to_pylist()]
    assert prompts.count("brief") == summary.num_captioned


class Stops(Course):
    """Says after some ranges that the budget is spent, and says so again."""

    def update(self, done: int, **figures: float | str) -> None:
        super().update(done)
        if len(self.done) > 4:
            raise BudgetSpent(5.0, 5.0, "recaption-1")


def test_a_spent_budget_loses_no_range_in_hand_and_more_of_it_goes_on(corpus: tuple[Path, Known]) -> None:
    folder, known = corpus
    engine = EngineConfig(name="fake", batch_size=8, max_actors=2, cpus_per_actor=0.5)
    job, course = make_job(folder, "budget", range_rows=2, engine=engine), Stops()
    with pytest.raises(BudgetSpent, match="raise budget="):
        recaption(job, course)
    ranges = sum(stop - start for found in job.parts.ranges().values() for start, stop in found)
    safe = ranges + job.layer.to_table().num_rows
    assert course.done[-1] == safe < 119, "all that was written has been told: no actor was cut off"
    assert not [name for name in job.parts.store.list() if name.startswith("stop")]
    assert recaption(job, NullProgress()).num_samples == 119 - safe
    check(job, known)


def fake_checkpoint(folder: Path, **behaviour: object) -> Path:
    folder.mkdir()
    (folder / "fake.json").write_text(json.dumps(behaviour))
    return folder


def test_an_engine_that_dies_costs_its_actor_and_no_sample(corpus: tuple[Path, Known], tmp_path: Path) -> None:
    folder, known = corpus
    checkpoint = fake_checkpoint(tmp_path / "fake", die_after_steps=3, max_deaths=2)
    job = make_job(folder, "dies-twice", checkpoint, engine=EngineConfig(name="fake", batch_size=8))
    summary = recaption(job, NullProgress())
    assert len(list(checkpoint.glob("died-*"))) == 2, "nothing died, so nothing was tested"
    assert summary.num_samples == 119
    check(job, known)


def test_the_samples_that_kill_the_engine_are_found_and_no_other_is_lost(
    corpus: tuple[Path, Known], tmp_path: Path
) -> None:
    folder, known = corpus
    job = make_job(folder, "poison")
    victims = [("00000", 37), ("00001", 20)]
    checkpoint = fake_checkpoint(tmp_path / "fake", die_image_keys=[image_key(job, *victim) for victim in victims])
    job = make_job(folder, "poison", checkpoint)
    summary = recaption(job, NullProgress())
    rows = {(row["shard"], row["row"]): row for row in job.layer.to_table().to_pylist()}
    assert [key for key, row in rows.items() if row["error"] == "engine_died"] == victims
    assert {key: row["text"] for key, row in rows.items() if key not in victims} == {
        key: fake_caption(digest, job.prompts.text(rows[key]["prompt_id"])) if digest else None
        for key, digest in known.items()
        if key not in victims
    }
    assert (summary.num_samples, summary.num_failed, summary.num_captioned) == (119, 3 + 2, 119 - 5)


def test_an_engine_that_always_dies_ends_the_stage_with_a_sentence(corpus: tuple[Path, Known], tmp_path: Path) -> None:
    folder, known = corpus
    checkpoint = fake_checkpoint(tmp_path / "fake", die_after_steps=1)
    job = make_job(folder, "dies", checkpoint, engine=EngineConfig(name="fake", batch_size=8, max_dead_ranges=1))
    with pytest.raises(StageFailed, match=r"round-1: recaptioning gave up .* same command goes on"):
        recaption(job, NullProgress())
    well = make_job(folder, "dies")
    recaption(well, NullProgress())  # the engine is well again: the same job goes on
    check(well, known)


def test_an_engine_that_fails_every_request_ends_the_stage_and_leaves_no_failed_rows(
    corpus: tuple[Path, Known], tmp_path: Path
) -> None:
    folder, known = corpus
    keys = [image_key(make_job(folder), *place) for place in known]
    checkpoint = fake_checkpoint(tmp_path / "fake", fail_image_keys=keys)
    engine = EngineConfig(name="fake", batch_size=8, max_failed_ranges=3)
    job = make_job(folder, "fails-all", checkpoint, engine=engine)
    with pytest.raises(StageFailed, match=r"round-1: 3 row ranges in a row .* the fake engine fails here"):
        recaption(job, NullProgress())
    assert (job.layer.shards(), job.parts.ranges()) == ([("pretrain", "00002")], {}), "the empty one"
    well = make_job(folder, "fails-all", engine=engine)
    recaption(well, NullProgress())
    check(well, known)


def test_ranges_that_fail_between_others_are_failed_rows(corpus: tuple[Path, Known], tmp_path: Path) -> None:
    folder, _ = corpus
    keys = [image_key(make_job(folder), "00000", row) for row in (*range(16, 32), *range(48, 64))]
    checkpoint = fake_checkpoint(tmp_path / "fake", fail_image_keys=keys)
    engine = EngineConfig(name="fake", batch_size=8, max_failed_ranges=3)
    summary = recaption(make_job(folder, "fails-some", checkpoint, engine=engine), NullProgress())
    assert (summary.num_samples, summary.num_captioned, summary.num_failed) == (119, 119 - 34, 34), (
        "32 of them, and two bad pictures"
    )


class TellingParts(Parts):
    """Tells which processes have written."""

    def write(self, source: str, shard: str, start: int, stop: int, table: pa.Table) -> None:
        self.store.write_text(f"actors/{os.getpid()}", "")
        super().write(source, shard, start, stop, table)


def test_the_pool_grows_with_the_backlog(tmp_path: Path) -> None:
    known = write_shards(tmp_path / "corpus", [400])
    checkpoint = fake_checkpoint(tmp_path / "fake", seconds_per_step=0.4)
    job = make_job(
        tmp_path,
        checkpoint=checkpoint,
        engine=EngineConfig(name="fake", batch_size=8, max_actors=2, cpus_per_actor=0.5),
    )
    job = dataclasses.replace(job, parts=TellingParts(job.parts.store))
    recaption(job, NullProgress())
    assert len(job.parts.store.list("actors")) == 2
    check(job, known)


class FailingParts(Parts):
    """Parts on a storage that fails the first `times` writes of each range that starts at one of `starts`."""

    def __init__(self, parts: Parts, starts: set[int], times: int) -> None:
        super().__init__(parts.store)
        self.starts, self.times = starts, times

    def write(self, source: str, shard: str, start: int, stop: int, table: pa.Table) -> None:
        failed = self.store.list(f"failed/{shard}-{start}")
        if start in self.starts and len(failed) < self.times:
            self.store.write_text(f"failed/{shard}-{start}/{len(failed)}", "")
            raise StorageError(f"{shard}/{start}: no success in 3 attempts")
        super().write(source, shard, start, stop, table)


@pytest.mark.parametrize(
    ("starts", "times", "raised", "match"),
    [
        ({16, 48}, 1, None, ""),
        ({16}, 2, StorageError, "00000/16: no success"),
        (set(range(0, 119, 16)), 9, StageFailed, r"3 row ranges in a row .* no success in 3 attempts"),
    ],
)
def test_a_storage_that_fails_a_range_is_tried_again_once(
    corpus: tuple[Path, Known], starts: set[int], times: int, raised: type[Exception] | None, match: str
) -> None:
    folder, known = corpus
    engine = EngineConfig(name="fake", batch_size=8, max_failed_ranges=3)
    well = make_job(folder, f"storage-{len(starts)}-{times}", engine=engine)
    job = dataclasses.replace(well, parts=FailingParts(well.parts, starts, times))
    if raised is None:
        assert recaption(job, NullProgress()).num_samples == 119
    else:
        with pytest.raises(raised, match=match):
            recaption(job, NullProgress())
        recaption(well, NullProgress())  # the storage is well again
    check(well, known)


def test_a_request_that_fails_alone_is_a_failed_row(corpus: tuple[Path, Known], tmp_path: Path) -> None:
    folder, _ = corpus
    victim = image_key(make_job(folder, "fails"), "00001", 20)
    job = make_job(folder, "fails", fake_checkpoint(tmp_path / "fake", fail_image_keys=[victim]))
    assert recaption(job, NullProgress()).num_failed == 4
    row = job.layer.read("pretrain", "00001").to_pylist()[20]
    assert (row["status"], row["error"], row["image_sha256"]) == ("failed", "engine_error", victim)


def test_kept_captions_are_not_counted_as_made_when_an_actor_dies_between_writing_and_telling(
    corpus: tuple[Path, Known], tmp_path: Path
) -> None:
    folder, known = corpus
    part = make_job(folder, "died-part", fraction=0.5)
    some = recaption(part, NullProgress())
    full = make_job(folder, "died-full", keep=part.layer)
    full = dataclasses.replace(full, parts=DyingParts(full.parts, tmp_path / "died"))
    summary = recaption(full, NullProgress())
    assert (tmp_path / "died").exists(), "nothing died, so nothing was tested"
    check(full, known)
    assert (summary.num_samples, summary.num_kept) == (119, some.num_captioned)
    assert (summary.num_captioned, summary.num_failed) == (116 - some.num_captioned, 3)
    rows = full.layer.to_table().to_pylist()
    assert summary.num_tokens + some.num_tokens == sum(row["num_output_tokens"] or 0 for row in rows)


class DyingParts(Parts):
    """Ends the process once, right after a part is written."""

    def __init__(self, parts: Parts, died: Path) -> None:
        super().__init__(parts.store)
        self.died = died

    def write(self, source: str, shard: str, start: int, stop: int, table: pa.Table) -> None:
        super().write(source, shard, start, stop, table)
        if not self.died.exists():
            self.died.touch()
            os._exit(1)


def test_what_an_actor_cannot_load_is_said_by_its_own_name(corpus: tuple[Path, Known]) -> None:
    folder, _ = corpus
    job = make_job(folder, "no-checkpoint", checkpoint=folder / "nowhere", engine=EngineConfig(name="transformers"))
    with pytest.raises(CheckpointError, match="nowhere"):
        recaption(job, NullProgress())
