"""The vLLM engine on its CPU build: the same words as transformers, each image encoded once, bad requests alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.engines.conftest import MakeRequests
from vila2_ray.config import EngineConfig
from vila2_ray.engines.base import Engine, Generation, generate, generate_all
from vila2_ray.engines.choice import open_engine, vllm_problem
from vila2_ray.errors import CheckpointError, ConfigError, EngineDied, Reason, SampleError

pytestmark = pytest.mark.skipif(bool(vllm_problem()), reason=vllm_problem())

BASE = Path(__file__).parents[3] / "vila2_ray" / "recipes" / "tiny" / "base"
CONFIG = EngineConfig(name="vllm", dtype="float32", batch_size=16, max_model_length=128)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    opened = open_engine(CONFIG, BASE)
    yield opened
    opened.close()


def texts(answers: list[Generation]) -> list[tuple[str, int, str]]:
    return [(a.text, a.num_output_tokens, a.finish_reason) for a in answers]


def agree(one: list[Generation], other: list[Generation]) -> None:
    assert texts(one) == texts(other)
    for a, b in zip(one, other, strict=True):
        assert a.problem is b.problem is None
        assert a.mean_logprob == pytest.approx(b.mean_logprob, abs=1e-4)
        assert a.min_logprob == pytest.approx(b.min_logprob, abs=1e-3)


def test_the_trained_folder_says_the_same_64_times_as_with_transformers(
    engine: Engine, make_requests: MakeRequests
) -> None:
    requests = make_requests(64, prompts=("describe the image in detail.",), max_tokens=48)
    transformers = open_engine(EngineConfig(name="transformers", dtype="float32"), BASE)
    answers = generate_all(engine, requests)
    agree(answers, generate_all(transformers, requests))
    assert len({answer.text for answer in answers}) > 16, "images must be told apart, or this proves nothing"
    assert {answer.finish_reason for answer in answers} >= {"stop"}


def test_sampling_goes_by_the_requests_own_seed(engine: Engine, make_requests: MakeRequests) -> None:
    requests = make_requests(5, temperature=1.0, top_p=0.9)
    together = texts(generate_all(engine, requests))
    assert together == [texts(generate_all(engine, [request]))[0] for request in requests]
    assert together != texts(generate_all(engine, make_requests(5)))


def test_an_image_is_encoded_once_for_all_its_variants(
    engine: Engine, make_requests: MakeRequests, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = make_requests(70, prompts=("describe", "list only what is certain.", "caption"))[3 * 64 :]  # unseen yet
    assert len({request.image_key for request in requests}) == 6
    model = engine.llm.model_executor.driver_worker.worker.model_runner.model  # type: ignore[attr-defined]
    encoded: list[int] = []
    tower = model.vision_tower.forward
    monkeypatch.setattr(model.vision_tower, "forward", lambda x, **kw: (encoded.append(len(x)), tower(x, **kw))[1])
    answers = list(generate(engine, [engine.prepare(request) for request in requests]))
    assert len(answers) == len(requests)
    assert sum(encoded) == 6


def test_a_request_that_cannot_be_answered_fails_alone(engine: Engine, make_requests: MakeRequests) -> None:
    good, long = make_requests(1)[0], make_requests(2, prompts=("what is it " * 90,))[1]
    answers = {answer.key: answer for answer in generate(engine, [good, long])}
    assert answers[good.key].problem is None
    problem = answers[long.key].problem
    assert isinstance(problem, SampleError)
    assert problem.reason is Reason.ENGINE_ERROR
    assert engine.num_pending == 0


def test_a_step_that_raises_is_a_dead_engine(
    engine: Engine, make_requests: MakeRequests, monkeypatch: pytest.MonkeyPatch
) -> None:
    (request,) = make_requests(1)
    with monkeypatch.context() as patch:
        patch.setattr(type(engine.llm), "step", lambda self: 1 / 0)  # type: ignore[attr-defined]
        engine.add(request)
        with pytest.raises(EngineDied, match="ZeroDivisionError"):
            engine.step()


def test_what_cannot_be_opened_is_said(tmp_path: Path, vila_folder: Path) -> None:
    with pytest.raises(ConfigError, match="trust_remote_code"):
        open_engine(EngineConfig(name="vllm", vllm={"trust_remote_code": True}), BASE)
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        open_engine(EngineConfig(name="vllm"), tmp_path)
    with pytest.raises(CheckpointError, match=r"vLLM .* cannot serve it"):
        open_engine(EngineConfig(name="vllm", vllm={"max_num_batched_tokens": -1}), BASE)
    with pytest.raises(ConfigError, match=r"recaption\.quantization"):
        open_engine(EngineConfig(name="transformers"), vila_folder, quantization="fp8")
