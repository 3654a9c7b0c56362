"""The training loss: cross-entropy summed over supervised tokens, divided by their number in the whole optimizer step.

Dividing once, by the number over all ranks and micro-batches, makes the gradient that of one big batch however it is
cut.
"""

from __future__ import annotations

import torch
from torch.nn import functional


def summed_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """logits [N, V], targets [N] → scalar float32, the sum over N; zero (with a gradient) for N = 0."""
    if not len(targets):
        return logits.float().sum() * 0.0
    return functional.cross_entropy(logits.float(), targets, reduction="sum")
