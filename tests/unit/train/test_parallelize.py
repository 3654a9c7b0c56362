"""What ranks talk by is what torch can do here, not what Ray was told of the node."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from vila2_ray.train.parallelize import best_backend


@pytest.mark.parametrize(
    ("has_gpu", "has_nccl", "backend"), [(True, True, "nccl"), (True, False, "gloo"), (False, True, "gloo")]
)
def test_ranks_talk_by_nccl_where_there_is_a_gpu_and_nccl(
    monkeypatch: pytest.MonkeyPatch, has_gpu: bool, has_nccl: bool, backend: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(dist, "is_nccl_available", lambda: has_nccl)
    assert best_backend() == backend
