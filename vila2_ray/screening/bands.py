"""Finding hashes that differ in at most d of 64 bits without comparing all with all.

Cut 64 bits into d + 1 bands: two hashes that differ in at most d bits are equal in at least one band (pigeonhole), so
only hashes with an equal band are compared. Repeats are told from firsts by their ordinals, places in corpus order:
a hash repeats when an earlier one lies within d. What is kept then holds no two within d, and the first of any group is
always kept.

Pairs are compared in bulk, so that a bucket of n hashes costs n²/2 comparisons of a few nanoseconds and O(n) memory.
"""

from __future__ import annotations

import itertools

import numpy as np

from vila2_ray.screening.phash import HASH_BITS

_BLOCK = 1 << 14
"""Hashes that are compared at once: few enough for a processor's cache."""


def cut(distance: int) -> list[tuple[int, int]]:
    """(shift, width) in bits of each of `distance` + 1 bands; together they are the whole hash."""
    edges = [HASH_BITS * i // (distance + 1) for i in range(distance + 2)]
    return [(low, high - low) for low, high in itertools.pairwise(edges)]


def band_of(hashes: np.ndarray, band: tuple[int, int]) -> np.ndarray:
    """[N] uint64: one band of hashes [N] uint64."""
    shift, width = band
    return (hashes >> np.uint64(shift)) & np.uint64((1 << width) - 1)


def num_different_bits(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[N] Hamming distances of hashes [N] uint64."""
    return np.bitwise_count(a ^ b)


def repeats(keys: tuple[np.ndarray, ...], ordinals: np.ndarray) -> np.ndarray:
    """Ordinals [M] of all but the first of every group of equal keys; `keys`: columns [N], compared together."""
    order, first = _groups(keys, ordinals)
    return ordinals[order][~first]


def near_repeats(hashes: np.ndarray, ordinals: np.ndarray, band: tuple[int, int], distance: int) -> np.ndarray:
    """Ordinals [M] of hashes [N] that are equal in `band` to an earlier one within `distance`, in ascending order."""
    order, is_first = _groups((hashes,), ordinals)
    copies = ordinals[order][~is_first]
    firsts, places = hashes[order][is_first], ordinals[order][is_first]  # copies lie as near as their first does
    keys = band_of(firsts, band)
    order = np.argsort(keys, kind="stable")
    firsts, places, keys = firsts[order], places[order], keys[order]
    ends = np.searchsorted(keys, keys, side="right")
    found = np.zeros(len(firsts), bool)
    for start in range(0, len(firsts), _BLOCK):  # each hash with the one `step` places on, as long as buckets reach
        block = np.arange(start, min(start + _BLOCK, len(firsts)))
        for step in range(1, int((ends[block] - block).max())):
            here = firsts[start : min(start + _BLOCK, len(firsts) - step)]
            there = firsts[start + step : start + step + len(here)]
            near = start + np.flatnonzero(num_different_bits(here, there) <= distance)
            near = near[near + step < ends[near]]  # equal in this band
            found[np.where(places[near] > places[near + step], near, near + step)] = True
    return np.sort(np.concatenate([copies, places[found]]))


class KnownHashes:
    """A fixed set of hashes to look others up in. Built once, then asked shard by shard."""

    def __init__(self, hashes: np.ndarray, distance: int) -> None:
        """`hashes` [N] uint64; what lies within `distance` bits of one of them is found."""
        known = np.unique(hashes.astype(np.uint64))
        self._distance, self._bands = distance, cut(distance)
        self._sorted = [known[np.argsort(band_of(known, band), kind="stable")] for band in self._bands]

    def near(self, hashes: np.ndarray) -> np.ndarray:
        """[N] bool: which of `hashes` [N] uint64 lie within the distance of a known one."""
        found = np.zeros(len(hashes), bool)
        for band, known in zip(self._bands, self._sorted, strict=True):
            keys, wanted = band_of(known, band), band_of(hashes, band)
            at, ends = np.searchsorted(keys, wanted, "left"), np.searchsorted(keys, wanted, "right")
            left = np.flatnonzero(~found & (at < ends))
            while len(left):
                found[left] = num_different_bits(hashes[left], known[at[left]]) <= self._distance
                at[left] += 1
                left = left[~found[left] & (at[left] < ends[left])]
        return found


def _groups(keys: tuple[np.ndarray, ...], ordinals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order by keys, then ordinal; and [N] bool, in that order, for the first of each group of equal keys."""
    order = np.lexsort((ordinals, *reversed(keys)))
    is_first = np.ones(len(ordinals), bool)
    if len(ordinals):
        is_first[1:] = np.any([key[order][1:] != key[order][:-1] for key in keys], axis=0)
    return order, is_first
