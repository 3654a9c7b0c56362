"""Which of a pair stands on which side."""

from __future__ import annotations

import hashlib


def swapped(seed: int, pair_id: str, rater: str) -> bool:
    """Whether a rater sees the second one on the left, or reads it first: half of the pairs, others for each rater."""
    return bool(hashlib.sha256(f"{seed}/{pair_id}/{rater}".encode()).digest()[0] & 1)
