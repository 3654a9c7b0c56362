"""Families other than ours, served by vLLM under their own names. A process holds one vLLM at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.engines.conftest import MakeRequests
from tests.unit.engines.tiny_llava import write_llava
from vila2_ray.config import EngineConfig
from vila2_ray.engines.base import generate_all
from vila2_ray.engines.choice import open_engine, vllm_problem

pytestmark = pytest.mark.skipif(bool(vllm_problem()), reason=vllm_problem())


def test_a_llava_made_on_the_spot_is_served_by_its_name(tmp_path: Path, make_requests: MakeRequests) -> None:
    folder = write_llava(tmp_path / "llava")
    requests = make_requests(8, max_tokens=12)
    config = EngineConfig(name="vllm", dtype="float32", batch_size=8)
    served = open_engine(config, folder)
    try:
        answers = generate_all(served, requests)
    finally:
        served.close()
    expected = generate_all(open_engine(EngineConfig(name="transformers", dtype="float32"), folder), requests)
    assert [(a.text, a.num_output_tokens) for a in answers] == [(a.text, a.num_output_tokens) for a in expected]
    for answer, wanted in zip(answers, expected, strict=True):
        assert answer.mean_logprob == pytest.approx(wanted.mean_logprob, abs=1e-4)
    assert len({answer.text for answer in answers}) > 4
