from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vila2_ray.screening.bands import KnownHashes, band_of, cut, near_repeats, num_different_bits, repeats

HASH = st.integers(0, 2**64 - 1)


@st.composite
def crowded(draw: st.DrawFn) -> np.ndarray:
    """Hashes many of which are others with a few bits turned."""
    hashes = draw(st.lists(HASH, min_size=1, max_size=6))
    for _ in range(draw(st.integers(0, 20))):
        near = draw(st.sampled_from(hashes))
        for bit in draw(st.lists(st.integers(0, 63), max_size=8)):
            near ^= 1 << bit
        hashes.append(near)
    return np.array(draw(st.permutations(hashes)), np.uint64)


def distance(a: np.uint64, b: np.uint64) -> int:
    return bin(int(a) ^ int(b)).count("1")


@given(HASH, HASH)
def test_different_bits_are_counted(a: int, b: int) -> None:
    assert num_different_bits(np.array([a], np.uint64), np.array([b], np.uint64)).tolist() == [bin(a ^ b).count("1")]


@pytest.mark.parametrize("bits", range(13))
def test_bands_are_the_whole_hash(bits: int) -> None:
    bands = cut(bits)
    assert len(bands) == bits + 1
    assert sum(((1 << width) - 1) << shift for shift, width in bands) == 2**64 - 1
    value = np.array([0x0123456789ABCDEF], np.uint64)
    assert sum(int(band_of(value, band)[0]) << band[0] for band in bands) == 0x0123456789ABCDEF


@settings(max_examples=150, deadline=None)
@given(crowded(), st.integers(0, 12), st.randoms(use_true_random=False))
def test_every_hash_with_an_earlier_one_within_the_distance_is_found_and_no_other(
    hashes: np.ndarray, most: int, random: object
) -> None:
    ordinals = np.array(random.sample(range(10_000), len(hashes)), np.uint64)  # type: ignore[attr-defined]
    found = {int(o) for band in cut(most) for o in near_repeats(hashes, ordinals, band, most)}
    expected = {
        int(ordinals[i])
        for i in range(len(hashes))
        for j in range(len(hashes))
        if ordinals[j] < ordinals[i] and distance(hashes[i], hashes[j]) <= most
    }
    assert found == expected


@settings(max_examples=100, deadline=None)
@given(crowded(), crowded(), st.integers(0, 12))
def test_known_hashes_are_found_as_by_comparing_with_all(known: np.ndarray, asked: np.ndarray, most: int) -> None:
    found = KnownHashes(known, most).near(asked)
    assert found.tolist() == [any(distance(a, k) <= most for k in known) for a in asked]


def test_nothing_is_near_to_nothing() -> None:
    none, some = np.array([], np.uint64), np.array([5], np.uint64)
    assert KnownHashes(none, 4).near(some).tolist() == [False]
    assert KnownHashes(some, 4).near(none).tolist() == []
    assert near_repeats(none, none, cut(4)[0], 4).tolist() == []
    assert repeats((none, none), none).tolist() == []


def test_of_equal_keys_the_first_in_order_is_kept() -> None:
    high, low = np.array([7, 7, 7, 1], np.uint64), np.array([1, 1, 2, 1], np.uint64)
    assert repeats((high, low), np.array([30, 10, 5, 2], np.uint64)).tolist() == [30]
