"""The whole pipeline on a small cluster: exactly once, on the right sample, whatever dies in between."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.unit.recaption.pictures import Known, bad_pictures, make_job, write_shards
from vila2_ray.config import EngineConfig
from vila2_ray.engines.fake import fake_caption
from vila2_ray.errors import CheckpointError, StageFailed
from vila2_ray.progress import NullProgress
from vila2_ray.recaption.job import RecaptionJob
from vila2_ray.recaption.pipeline import recaption

pytestmark = pytest.mark.usefixtures("ray_cluster")


class Course(NullProgress):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.total, self.done = 0, [0]

    def start(self, stage: str, total: int, unit: str) -> None:
        self.total = total

    def update(self, done: int, **figures: float | str) -> None:
        self.done.append(done)


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


def test_a_request_that_fails_alone_is_a_failed_row(corpus: tuple[Path, Known], tmp_path: Path) -> None:
    folder, _ = corpus
    victim = image_key(make_job(folder, "fails"), "00001", 20)
    job = make_job(folder, "fails", fake_checkpoint(tmp_path / "fake", fail_image_keys=[victim]))
    assert recaption(job, NullProgress()).num_failed == 4
    row = job.layer.read("pretrain", "00001").to_pylist()[20]
    assert (row["status"], row["error"], row["image_sha256"]) == ("failed", "engine_error", victim)


def test_what_an_actor_cannot_load_is_said_by_its_own_name(corpus: tuple[Path, Known]) -> None:
    folder, _ = corpus
    job = make_job(folder, "no-checkpoint", checkpoint=folder / "nowhere", engine=EngineConfig(name="transformers"))
    with pytest.raises(CheckpointError, match="nowhere"):
        recaption(job, NullProgress())
