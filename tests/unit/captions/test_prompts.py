import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vila2_ray.captions.prompts import FAMILY, Prompts, draw, seed, selected
from vila2_ray.errors import ConfigError

IDS = ("detailed", "narrative", "confident")
NUM = 6000


def test_family_has_the_four_of_the_paper_with_different_texts() -> None:
    assert set(FAMILY) == {"brief", *IDS}
    assert len(set(FAMILY.values())) == 4


def test_custom_texts_add_and_override() -> None:
    prompts = Prompts(("detailed", "mine"), {"detailed": "describe.", "mine": "say."})
    assert prompts.text("detailed") == "describe."
    assert prompts.text("mine") == "say."
    assert prompts.text("brief") == FAMILY["brief"]


def test_unknown_and_empty_prompts_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="detialed"):
        Prompts(("detialed",))
    with pytest.raises(ConfigError, match="detialed"):
        Prompts().text("detialed")
    with pytest.raises(ConfigError, match=r"recaption\.prompts\.mine"):
        Prompts((), {"mine": "  "})
    with pytest.raises(ConfigError, match="prompt_ids"):
        draw((), "plan", "shard/0")


def test_draws_never_change() -> None:
    """Finished layers were made under these values: whoever changes one breaks resuming."""
    assert [draw("abc", "plan", "shard/0", v) for v in range(4)] == ["a", "b", "c", "a"]
    assert draw("abc", "plan", "shard/1") == "b"
    assert draw("abc", "p2", "shard/0") == "c"
    assert [seed("plan", "shard/0", v) for v in range(2)] == [1100929242, 634740282]
    assert seed("plan", "größe/猫\ud800") == 158754174
    assert [selected("plan", "shard/0", share) for share in (0.35, 0.36)] == [False, True]


def test_draws_are_the_same_in_another_process_whatever_its_hash_seed() -> None:
    code = (
        "from vila2_ray.captions.prompts import *;"
        "print([(draw('abc', 'k', str(i), 1), seed('k', str(i), 1), selected('k', str(i), .5)) for i in range(20)])"
    )
    here = [(draw("abc", "k", str(i), 1), seed("k", str(i), 1), selected("k", str(i), 0.5)) for i in range(20)]
    for hash_seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, check=True
        )
        assert there.stdout.strip() == repr(here)


@pytest.mark.parametrize("variant", [0, 1])
def test_prompts_are_drawn_uniformly(variant: int) -> None:
    counts = Counter(draw(IDS, "plan", f"00000/{i}", variant) for i in range(NUM))
    chi_square = sum((counts[name] - NUM / 3) ** 2 / (NUM / 3) for name in IDS)
    assert chi_square < 13.8  # 2 degrees of freedom, p = 0.001


@pytest.mark.parametrize("fraction", [0.05, 0.5, 0.9])
def test_selection_takes_its_share(fraction: float) -> None:
    taken = sum(selected("plan", f"00000/{i}", fraction) for i in range(NUM))
    assert abs(taken - NUM * fraction) < 3.3 * (NUM * fraction * (1 - fraction)) ** 0.5


def test_seeds_are_uniform_and_rarely_collide() -> None:
    seeds = [seed("plan", f"00000/{i}") for i in range(NUM)]
    assert len(set(seeds)) > NUM - 3
    counts = Counter(value * 16 // 2**31 for value in seeds)
    chi_square = sum((counts[bin_] - NUM / 16) ** 2 / (NUM / 16) for bin_ in range(16))
    assert chi_square < 37.7  # 15 degrees of freedom, p = 0.001


def test_prompt_choice_says_nothing_about_selection() -> None:
    chosen = Counter(draw(IDS, "plan", f"0/{i}") for i in range(NUM) if selected("plan", f"0/{i}", 0.5))
    assert all(abs(chosen[name] - NUM / 6) < 100 for name in IDS)


def test_plans_draw_independently() -> None:
    same = sum(selected("one", f"0/{i}", 0.5) == selected("two", f"0/{i}", 0.5) for i in range(NUM))
    assert abs(same - NUM / 2) < 130


@given(st.text(), st.text(), st.integers(0, 5))
def test_variants_of_a_sample_get_different_prompts(plan_key: str, sample_id: str, variant: int) -> None:
    drawn = {draw(IDS, plan_key, sample_id, variant + i) for i in range(3)}
    assert drawn == set(IDS)


@given(st.text(), st.text(), st.integers(0, 2**15))
def test_seeds_fit_every_generator(plan_key: str, sample_id: str, variant: int) -> None:
    assert 0 <= seed(plan_key, sample_id, variant) < 2**31


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_holds_the_smaller(sample_id: str, one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert not selected("plan", sample_id, small) or selected("plan", sample_id, large)


@given(st.text())
def test_all_and_none(sample_id: str) -> None:
    assert selected("plan", sample_id, 1.0)
    assert not selected("plan", sample_id, 0.0)


def test_keys_are_not_mixed_by_joining() -> None:
    assert seed("a", "bc") != seed("ab", "c")


def test_draw_falls_back_to_the_ids_it_was_made_with() -> None:
    prompts = Prompts(IDS)
    assert prompts.draw((), "plan", "0/1", 1) == draw(IDS, "plan", "0/1", 1)
    assert prompts.draw(("brief",), "plan", "0/1") == "brief"


def test_variants_are_every_prompt_or_several_draws_of_one() -> None:
    """What `recaption.prompt_ids` promises: num_variants prompts of an image differ, draws of one differ by seed."""
    ids = ("detailed", "narrative", "confident")
    for sample in ("s/a", "s/b", "s/c"):
        assert {draw(ids, "plan", sample, variant) for variant in range(3)} == set(ids)
        assert {draw(ids[:1], "plan", sample, variant) for variant in range(3)} == {"detailed"}
        assert len({seed("plan", sample, variant) for variant in range(3)}) == 3
