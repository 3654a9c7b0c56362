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
from vila2_ray.train.packplan import LENGTHS, PackPlan, Share, best_fit, make_plan, rank_slice


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


def several(**sizes: int) -> pa.Table:
    """Sources of different sizes, one after the other."""
    tables = []
    for seed, (name, num) in enumerate(sizes.items()):
        table = lengths(num, seed)
        tables.append(table.set_column(0, LENGTHS.field(0), pa.array([name] * num)))
    return pa.concat_tables(tables)


def test_sources_are_mixed_in_proportion_in_every_window() -> None:
    settings = stage(num_epochs=1, batch_size=8, max_length=64)
    plan = make_plan(several(big=800, small=200), settings, seed=0, shuffle_window=100)
    source = [key[0] for key in keys(plan)]
    shares = [source[at : at + 100].count("small") for at in range(0, 1000, 100)]
    assert set(Counter(keys(plan)).values()) == {1}
    assert all(15 <= share <= 25 for share in shares)
    assert plan.by_source()["small"]["items"] == 200
    assert sum(found["tokens"] for found in plan.by_source().values()) == plan.num_tokens


def test_weight_draws_other_samples_each_epoch_and_repeat_takes_each_again() -> None:
    settings = stage(num_epochs=2, batch_size=1, max_length=64)
    shares = {"part": Share(weight=0.25), "often": Share(repeat=3)}
    table = several(whole=100, part=400, often=50)
    plan = make_plan(table, settings, seed=0, shuffle_window=10_000, shares=shares)
    counts = {name: found["items"] for name, found in plan.by_source().items()}
    assert counts["whole"] == 200
    assert counts["often"] == 300
    assert 150 <= counts["part"] <= 250
    parts = Counter(key for key in keys(plan) if key[0] == "part")
    assert 0 < sum(count == 2 for count in parts.values()) < 60  # a quarter of a quarter
    smaller = make_plan(several(part=400), settings, seed=0, shuffle_window=10_000, shares=shares)
    assert Counter(keys(smaller)) == parts  # what is drawn does not depend on other sources


def test_a_sample_is_drawn_with_all_its_items() -> None:
    table = lengths(400).to_pydict()
    table["row"] = [row // 2 for row in table["row"]]
    table["item"] = [0, 1] * 200
    shares = {"pretrain": Share(weight=0.5)}
    settings = stage(num_epochs=1, batch_size=1)
    plan = make_plan(pa.table(table, schema=LENGTHS), settings, seed=0, shuffle_window=64, shares=shares)
    samples = Counter(key[:3] for key in keys(plan))
    assert set(samples.values()) == {2}
    assert 70 <= len(samples) <= 130


def test_nothing_drawn_is_refused() -> None:
    shares = {"pretrain": Share(weight=1e-9)}
    with pytest.raises(CorpusError, match="no sample was drawn"):
        make_plan(lengths(40), stage(), seed=0, shuffle_window=64, shares=shares)


@pytest.mark.parametrize("window", [64, 500, 10_000])
def test_packing_leaves_little_room(window: int) -> None:
    settings = stage(num_epochs=2, batch_size=8, max_length=128, max_samples_per_sequence=0)
    plan = make_plan(lengths(1000), settings, seed=0, shuffle_window=window)
    assert plan.real_token_share(8) > 0.97
    assert plan.num_tokens > 0.97 * plan.num_sequences * 128
    assert 2000 - plan.num_items < 8 * 6  # what does not fill a last step
    assert max(Counter(keys(plan)).values()) == 2
    again = make_plan(lengths(1000), settings, seed=0, shuffle_window=window)
    assert again.digest == plan.digest


def test_best_fit_puts_every_item_once_and_keeps_their_order() -> None:
    tokens = np.random.default_rng(0).integers(1, 100, 500)
    items = np.arange(1000, 1500)
    sequences = best_fit(items, tokens, 100)
    assert sorted(np.concatenate(sequences).tolist()) == items.tolist()
    assert all(tokens[sequence - 1000].sum() <= 100 for sequence in sequences)
    assert all((np.diff(sequence) > 0).all() for sequence in sequences)
    assert len(sequences) <= 11 / 9 * tokens.sum() / 100 + 1
    assert max(len(sequence) for sequence in best_fit(items, tokens, 100, max_samples=2)) == 2
