from __future__ import annotations

import itertools

import pytest

from tests.unit.train import small
from vila2_ray.train.optimize import freeze, lr_factor, make_optimizer, set_lr


def test_warm_up_is_linear_then_a_cosine_falls_to_the_end() -> None:
    settings = small.stage(warmup_share=0.03, min_lr_share=0.1)
    factors = [lr_factor(step, 200, settings) for step in range(200)]
    assert factors[:6] == pytest.approx([k / 6 for k in range(1, 7)])
    assert max(factors) == 1.0
    assert all(a >= b for a, b in itertools.pairwise(factors[6:]))
    assert factors[6 + 97] == pytest.approx(0.55)
    assert factors[-1] == pytest.approx(0.1, abs=1e-3)


def test_no_warm_up_starts_at_the_peak() -> None:
    assert lr_factor(0, 10, small.stage(warmup_share=0.0)) == 1.0


def test_the_tower_learns_at_its_own_rate_and_only_matrices_decay() -> None:
    settings = small.stage(
        trained=("vision", "connector", "language"), vision_lr_factor=0.1, peak_lr=1e-3, weight_decay=0.5
    )
    model = small.model()
    optimizer = make_optimizer(freeze(model, settings, "vila"), settings, "vila")
    set_lr(optimizer, 0.5)
    rate = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    assert len(rate) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        lr, decay = rate[id(parameter)]
        assert lr == pytest.approx(5e-5 if "vision_tower" in name else 5e-4)
        assert decay == (0.5 if parameter.ndim >= 2 else 0.0)
