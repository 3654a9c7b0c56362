"""Training on GPUs: the same curve as on processors, flash attention as the fused one, ranks over nccl.

Run where there is a GPU: `make test-all ARGS="-m gpu"`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.train import ranks, small
from tests.unit.train.test_parallel import same, train
from vila2_ray.train.parallelize import Place, find_place

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]
GPU = Place(torch.device("cuda", 0), torch.float32)


@pytest.mark.parametrize("name", ["all parts", "frozen tower", "packed"])
def test_a_gpu_trains_as_a_processor_does(name: str) -> None:
    losses, _ = train(GPU, name)
    assert losses == pytest.approx(train(small.CPU, name)[0], abs=2e-3)


@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is None, reason="flash-attn is not installed")
def test_flash_attention_keeps_packed_samples_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    half = dataclasses.replace(GPU, compute_dtype=torch.bfloat16)
    assert half.attention == "flash_attention_2"
    flash, _ = train(half, "packed")
    monkeypatch.setattr(Place, "attention", "sdpa")
    assert flash == pytest.approx(train(half, "packed")[0], abs=3e-2)


def over_gpus(place: Place, folder: Path) -> dict[str, Any]:
    return {"all parts": train(place, "all parts"), "full": train(place, "all parts", activation_checkpointing="full")}


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU here")
def test_gpus_share_a_model(tmp_path: Path) -> None:
    for answer in ranks.run(2, tmp_path, over_gpus, backend="nccl"):
        for found in answer.values():
            assert found[0] == pytest.approx(train(small.CPU, "all parts")[0], abs=2e-3)


def test_this_machine_computes_in_half_precision_where_it_can() -> None:
    assert find_place().compute_dtype == (torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32)


def test_compiled_layers_on_a_gpu() -> None:
    found = train(GPU, "all parts", compiles=True)
    same(found, "all parts")
