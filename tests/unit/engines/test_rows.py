"""Rows that have nothing in common choose what they would choose alone."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from vila2_ray.config import SamplingConfig
from vila2_ray.engines.choosing import TokenChooser
from vila2_ray.engines.rows import Row, choose

KINDS = (
    SamplingConfig(max_tokens=9),
    SamplingConfig(max_tokens=6, min_tokens=6),
    SamplingConfig(max_tokens=12, temperature=0.7, top_p=0.8),
    SamplingConfig(max_tokens=4, temperature=1.5, min_tokens=2),
)
ENDS = (3, 5)


def row(sampling: SamplingConfig, seed: int) -> Row:
    return Row("", "", Image.new("RGB", (1, 1)), sampling, seed)


def test_each_row_chooses_as_in_a_batch_of_its_own() -> None:
    draws = torch.Generator().manual_seed(1)
    logits = torch.randn(12, 16, 11, generator=draws) * 3  # [steps, rows, V]
    rows = [row(KINDS[n % len(KINDS)], n) for n in range(16)]
    for step in logits:
        if all(r.is_over for r in rows):
            break
        choose(rows, step, ENDS)
    for n, one in enumerate(rows):
        chooser, alone = TokenChooser(one.sampling, [n], ENDS, torch.device("cpu")), torch.tensor([0])
        for step in logits[:, n : n + 1]:
            chooser.choose(step, alone)
            if not len(chooser.going(alone)):
                break
        (expected,) = chooser.results()
        assert (one.token_ids, one.finish_reason) == (expected.token_ids, expected.finish_reason)
        assert one.mean_logprob == pytest.approx(expected.mean_logprob, abs=1e-5)
        assert one.min_logprob == pytest.approx(expected.min_logprob, abs=1e-5)
    assert {r.finish_reason for r in rows} == {"stop", "length"}


def test_what_is_no_number_breaks_its_own_row() -> None:
    rows = [row(KINDS[0], 0), row(KINDS[0], 1)]
    choose(rows, torch.tensor([[float("nan")] * 6, [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]]), ENDS)
    assert [r.is_over for r in rows] == [True, False]
    assert rows[0].is_broken
