from __future__ import annotations

import itertools
import subprocess
import sys
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from tests.unit.train.small import stage
from vila2_ray.errors import CorpusError
from vila2_ray.train.packplan import LENGTHS, PackPlan, make_plan, rank_slice


def lengths(num: int, seed: int = 0, shard_size: int = 50) -> pa.Table:
    rng = np.random.default_rng(seed)
    number = np.arange(num)
    columns = [
        ["pretrain"] * num, [f"{n // shard_size:05d}" for n in number], number % shard_size, [0] * num,
        rng.integers(4, 60, num), rng.integers(1, 4, num), [1] * num,
    ]  # fmt: skip
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, LENGTHS, strict=True)], schema=LENGTHS)


def keys(plan: PackPlan) -> list[tuple[str, str, int, int]]:
    return [tuple(key) for n in range(plan.num_sequences) for key in plan.sequence(n)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("most", [1, 3])
@pytest.mark.parametrize("window", [7, 64, 10_000])
def test_every_item_once_an_epoch_within_the_limits(seed: int, most: int, window: int) -> None:
    settings = stage(num_epochs=1, batch_size=8, max_length=64, max_samples_per_sequence=most)
    table = lengths(300, seed)
    plan = make_plan(table, settings, seed=seed, shuffle_window=window)
    found = Counter(keys(plan))
    assert set(found.values()) == {1}
    assert plan.num_sequences == plan.num_steps * 8
    assert 300 - len(found) < 8 * most  # no more than an incomplete step is missing
    tokens = plan.table["num_tokens"].to_numpy()
    sequence = plan.table["sequence"].to_numpy()
    assert np.bincount(sequence, tokens).max() <= 64
    assert np.bincount(sequence).max() <= most


def test_the_same_inputs_give_the_same_plan_and_the_seed_another() -> None:
    first, again = (make_plan(lengths(200), stage(), seed=1, shuffle_window=64) for _ in range(2))
    assert first.digest == again.digest
    assert first.table.equals(again.table)
    assert make_plan(lengths(200), stage(), seed=2, shuffle_window=64).digest != first.digest


def test_epochs_differ_in_order_and_may_end_in_a_fraction() -> None:
    plan = make_plan(lengths(160), stage(num_epochs=2.5, batch_size=4), seed=0, shuffle_window=1000)
    order = keys(plan)
    assert len(order) == 400
    assert order[:160] != order[160:320]
    assert sorted(order[:160]) == sorted(order[160:320])


def test_windows_keep_shards_together() -> None:
    plan = make_plan(lengths(400), stage(num_epochs=1, batch_size=2), seed=3, shuffle_window=50)
    shards = [key[1] for key in keys(plan)]
    assert sum(a != b for a, b in itertools.pairwise(shards)) == 7  # eight shards, each read once


def test_steps_hold_similar_lengths() -> None:
    plan = make_plan(lengths(800), stage(num_epochs=1, batch_size=8), seed=0, shuffle_window=1000)
    assert plan.real_token_share(8) > 0.85  # 0.55 for steps drawn at random
    steps = plan.table["num_tokens"].to_numpy()[: plan.num_steps * 8].reshape(-1, 8).mean(1)
    assert abs(np.corrcoef(np.arange(len(steps)), steps)[0, 1]) < 0.3  # long ones do not come last


def test_an_incomplete_step_is_dropped_or_filled_when_it_is_the_only_one() -> None:
    assert make_plan(lengths(11), stage(num_epochs=1, batch_size=4), seed=0, shuffle_window=64).num_items == 8
    only = make_plan(lengths(3), stage(num_epochs=1, batch_size=8), seed=0, shuffle_window=64)
    assert only.num_steps == 1
    assert Counter(Counter(keys(only)).values()) == Counter({3: 2, 2: 1})


def test_what_cannot_be_trained_on_is_left_out_and_counted() -> None:
    table = lengths(40).to_pydict()
    table["num_tokens"][3] = 65
    table["num_supervised"][5] = 0
    plan = make_plan(pa.table(table, schema=LENGTHS), stage(num_epochs=1, batch_size=2), seed=0, shuffle_window=64)
    assert (plan.num_too_long, plan.num_empty, plan.num_items) == (1, 1, 38)
    with pytest.raises(CorpusError, match="none of 40 items"):
        make_plan(lengths(40), stage(max_length=2), seed=0, shuffle_window=64)


def test_max_steps_cuts_the_plan() -> None:
    whole = make_plan(lengths(100), stage(), seed=0, shuffle_window=64)
    cut = make_plan(lengths(100), stage(max_steps=3), seed=0, shuffle_window=64)
    assert cut.num_steps == 3
    assert keys(cut) == keys(whole)[:12]


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_ranks_share_a_step_without_overlap(world: int) -> None:
    slices = [n for rank in range(world) for n in rank_slice(5, 8, rank, world)]
    assert sorted(slices) == list(range(40, 48))


def test_planning_loads_no_torch() -> None:
    code = "import sys, vila2_ray.train.packplan; sys.exit('torch' in sys.modules or 'ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
