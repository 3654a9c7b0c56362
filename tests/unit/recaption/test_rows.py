"""One row in, one row out: captions on their own samples, reasons on the bad ones."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.unit.recaption.pictures import bad_pictures, make_job, write_shards
from vila2_ray.config import SamplingConfig
from vila2_ray.engines.fake import FakeBehaviour, FakeEngine, fake_caption
from vila2_ray.errors import EngineDied
from vila2_ray.recaption.rows import caption, figures_of, settle, to_table


def test_every_caption_lands_on_its_own_sample(tmp_path: Path) -> None:
    known = write_shards(tmp_path / "corpus", [70])
    job = make_job(tmp_path, num_variants=3)
    rows = caption(FakeEngine(batch_size=7), job.corpus.read("00000"), job.plan)
    assert [(row["row"], row["variant"]) for row in rows] == [(n, v) for n in range(70) for v in range(3)]
    for row in rows:
        prompt = job.prompts.text(row["prompt_id"])
        assert row["text"] == " ".join(fake_caption(known["00000", row["row"]], prompt).split())
        assert row["sample_id"] == f"00000/{row['row']:04}"
    assert len({row["prompt_id"] for row in rows[:3]}) == 3, "variants go through the prompts"
    to_table(rows, 0, 70, 3)


def test_each_bad_picture_becomes_a_failed_row_with_its_reason(tmp_path: Path) -> None:
    bad = {(0, 3 + number): data for number, data in enumerate(bad_pictures().values())}
    write_shards(tmp_path / "corpus", [10], bad)
    job = make_job(tmp_path)
    rows = caption(FakeEngine(), job.corpus.read("00000"), job.plan)
    failed = {row["row"]: row for row in rows if row["status"] == "failed"}
    assert {number: row["error"] for number, row in failed.items()} == dict(enumerate(bad_pictures(), start=3))
    for (_, number), data in bad.items():
        row = failed[number]
        assert row["error_detail"]
        assert row["image_sha256"] == hashlib.sha256(data).hexdigest()
        assert row["text"] is row["prompt_id"] is row["mean_logprob"] is None
    assert sum(row["status"] == "captioned" for row in rows) == 7


def test_what_the_engine_cannot_answer_is_a_failed_row(tmp_path: Path) -> None:
    write_shards(tmp_path / "corpus", [6])
    job = make_job(tmp_path)
    victim = hashlib.sha256(next(job.corpus.read("00000", [4])).image or b"").hexdigest()
    rows = caption(FakeEngine(behaviour=FakeBehaviour(fail_image_keys=(victim,))), job.corpus.read("00000"), job.plan)
    assert [row["error"] for row in rows] == [None, None, None, None, "engine_error", None]
    assert rows[4]["prompt_id"], "which prompt failed is worth knowing"
    with pytest.raises(EngineDied):
        caption(FakeEngine(behaviour=FakeBehaviour(die_image_keys=(victim,))), job.corpus.read("00000"), job.plan)


def test_rows_are_settled_by_share_and_by_the_layer_to_keep(tmp_path: Path) -> None:
    write_shards(tmp_path / "corpus", [60])
    job = make_job(tmp_path, fraction=0.5)
    keys = dict(enumerate(job.corpus.index("00000")["key"].to_pylist()))
    half = settle("pretrain", "00000", keys, {}, job.plan)
    assert 15 < len(half.to_caption) < 45
    assert {row["status"] for row in half.rows} == {"not_selected"}
    assert len(half.rows) + len(half.to_caption) == 60
    first = caption(FakeEngine(), job.corpus.read("00000", half.to_caption), job.plan)
    kept: dict[int, list[dict[str, Any]]] = {row["row"]: [row] for row in first}
    kept[half.to_caption[0]][0]["status"] = "failed"
    full = settle("pretrain", "00000", keys, kept, dataclasses.replace(job.plan, fraction=1.0))
    assert full.num_kept == len(half.to_caption) - 1
    assert half.to_caption[0] in full.to_caption, "what failed before is tried again"
    assert {row["text"] for row in full.rows} == {row["text"] for row in first[1:]}


def test_figures_of_a_part_tell_kept_captions_from_made_ones(tmp_path: Path) -> None:
    write_shards(tmp_path / "corpus", [8], {(0, 7): b"no picture"})
    job = make_job(tmp_path)
    rows = caption(FakeEngine(), job.corpus.read("00000"), job.plan)
    table = to_table(rows, 0, 8, 1)
    kept = {row["row"]: [row] for row in rows[:3]}
    kept[7] = [{**rows[7], "status": "failed"}]
    told = figures_of(table, kept, 1)
    assert {key: told[key] for key in ("captioned", "kept", "failed")} == {"captioned": 4, "kept": 3, "failed": 1}
    assert told["tokens"] == sum(row["num_output_tokens"] for row in rows[3:7])
    assert figures_of(table, {}, 1)["captioned"] == 7


def test_the_seam_refuses_a_lost_and_a_doubled_row(tmp_path: Path) -> None:
    write_shards(tmp_path / "corpus", [4])
    job = make_job(tmp_path)
    rows = caption(FakeEngine(), job.corpus.read("00000"), job.plan)
    for wrong in (rows[:3], [*rows, rows[0]], [*rows[:3], rows[0]]):
        with pytest.raises(AssertionError, match="came out"):
            to_table(wrong, 0, 4, 1)


def test_sampling_seeds_differ_by_sample_and_variant_and_repeat(tmp_path: Path) -> None:
    write_shards(tmp_path / "corpus", [5])
    job = make_job(
        tmp_path, num_variants=2, sampling=SamplingConfig(temperature=1.0, max_tokens=99), prompt_ids=("brief",)
    )
    rows = caption(FakeEngine(), job.corpus.read("00000"), job.plan)
    assert len({row["text"] for row in rows}) == 10
    assert rows == caption(FakeEngine(batch_size=3), job.corpus.read("00000"), job.plan)


def test_a_screened_sample_is_not_captioned_and_its_rows_say_why(tmp_path: Path) -> None:
    write_shards(tmp_path / "corpus", [4])
    job = make_job(tmp_path, num_variants=2)
    keys = {row: f"{row:04}" for row in range(4)}
    kept = {1: caption(FakeEngine(), job.corpus.read("00000", [1]), job.plan)}
    screened = {1: ["duplicate"], 2: ["min_side", "takedown"]}
    settled = settle("pretrain", "00000", keys, kept, job.plan, screened)
    assert settled.to_caption == [0, 3]
    assert settled.num_kept == 0, "a caption that an earlier layer has is not taken over"
    assert [(r["row"], r["variant"], r["status"], r["error"], r["error_detail"]) for r in settled.rows] == [
        (1, 0, "not_selected", None, "screened: duplicate"),
        (1, 1, "not_selected", None, "screened: duplicate"),
        (2, 0, "not_selected", None, "screened: min_side, takedown"),
        (2, 1, "not_selected", None, "screened: min_side, takedown"),
    ]
    assert settle("pretrain", "00000", keys, kept, job.plan, {}) == settle("pretrain", "00000", keys, kept, job.plan)
