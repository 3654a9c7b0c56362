"""The vLLM engine where there is a GPU: chosen by itself, in bfloat16, and as full of words as on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.engines.conftest import MakeRequests
from vila2_ray.config import EngineConfig
from vila2_ray.engines.base import generate_all
from vila2_ray.engines.choice import choose_engine, open_engine

pytestmark = pytest.mark.gpu

BASE = Path(__file__).parents[3] / "vila2_ray" / "recipes" / "tiny" / "base"


def test_a_gpu_is_served_by_vllm(make_requests: MakeRequests) -> None:
    assert choose_engine("auto") == "vllm"
    engine = open_engine(EngineConfig(batch_size=16, gpu_memory_share=0.3, max_model_length=256), BASE)
    try:
        answers = generate_all(engine, make_requests(64, prompts=("describe the image in detail.",), max_tokens=48))
    finally:
        engine.close()
    assert all(answer.problem is None and answer.text for answer in answers)
    assert len({answer.text for answer in answers}) > 16
