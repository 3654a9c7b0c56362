"""What is missing is found by looking, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from tests.unit.recaption.pictures import make_job, write_shards
from vila2_ray.engines.fake import FakeEngine
from vila2_ray.recaption.job import RecaptionJob
from vila2_ray.recaption.plan import RowRange, find_work, windows
from vila2_ray.recaption.rows import caption, to_table


def part(job: RecaptionJob, shard: str, start: int, stop: int) -> pa.Table:
    rows = caption(FakeEngine(), job.corpus.read(shard, range(start, stop)), job.plan)
    return to_table(rows, start, stop, job.plan.num_variants)


def test_what_is_there_is_subtracted(tmp_path: Path) -> None:
    write_shards(tmp_path / "corpus", [40, 0, 20, 5])
    job = make_job(tmp_path)
    work = find_work(job.corpus, job.layer, job.parts, 16)
    assert (work.rows_total, work.rows_done) == (65, 0)
    assert [(r.shard, r.start, r.stop) for r in work.ranges] == [
        ("00000", 0, 16), ("00000", 16, 32), ("00000", 32, 40), ("00002", 0, 16), ("00002", 16, 20), ("00003", 0, 5),
    ]  # fmt: skip
    job.parts.write("pretrain", "00000", 16, 32, part(job, "00000", 16, 32))
    job.parts.write("pretrain", "00003", 0, 5, part(job, "00003", 0, 5))
    job.layer.write("pretrain", "00002", part(job, "00002", 0, 20))
    work = find_work(job.corpus, job.layer, job.parts, 16)
    assert (work.rows_total, work.rows_done) == (65, 41)
    assert [(r.shard, r.start, r.stop) for r in work.ranges] == [("00000", 0, 16), ("00000", 32, 40)]
    assert work.missing_by_shard == {("pretrain", "00000"): 24, ("pretrain", "00001"): 0, ("pretrain", "00003"): 0}


def test_windows_hold_every_range_once_and_in_order() -> None:
    ranges = [RowRange("s", "a", 16 * n, 16 * n + 16) for n in range(100)]
    for num_actors in (1, 3, 50):
        cut = windows(ranges, num_actors)
        assert [piece for window in cut for piece in window] == ranges
        assert max(map(len, cut)) <= 16
        assert len(cut) >= min(100, 4 * num_actors)
    assert windows([], 2) == []


def test_the_number_of_windows_is_bounded() -> None:
    ranges = [RowRange("s", f"{n // 4:06}", 0, 256) for n in range(100_001)]
    cut = windows(ranges, 1000)
    assert 3000 < len(cut) <= 4000
    assert [piece for window in cut for piece in window] == ranges


def test_a_read_task_carries_its_own_shards_alone(tmp_path: Path) -> None:
    from ray import cloudpickle

    from vila2_ray.recaption.source import RangeSource

    write_shards(tmp_path / "corpus", [8] * 30)
    job = make_job(tmp_path)
    work = find_work(job.corpus, job.layer, job.parts, 8)
    tasks = RangeSource(job.corpus, windows(work.ranges, 2, most=3), job.plan, None).get_read_tasks(1)
    sent = [cloudpickle.dumps(task) for task in tasks]
    assert len(tasks) == 10
    assert [sum(f"{n:05}.tar".encode() in task for n in range(30)) for task in sent] == [3] * 10
