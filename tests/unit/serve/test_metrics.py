from __future__ import annotations

import asyncio
import contextlib

import pytest
from fastapi import FastAPI

from tests.unit.serve.wire import asked
from vila2_ray.serve.captioner import Served, Standing
from vila2_ray.serve.metrics import Metrics, add_metrics

SERVED = Served("promoted", "vlm-1", "ab" * 32, engine="fake 1", since=1000.0)
NAMES = (Standing("promoted", "serving", SERVED), Standing("ocr", "loading"))


def standing() -> tuple[Standing, ...]:
    return NAMES


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"vila2_{name}", labels)


def test_an_answer_is_followed_from_waiting_to_its_end() -> None:
    metrics = Metrics(standing)
    with metrics.question("promoted") as asked_:
        assert value(metrics, "questions_waiting", model="promoted") == 1
        asked_.begun()
        asked_.begun()
        assert value(metrics, "questions_waiting", model="promoted") == 0
        assert value(metrics, "questions_running", model="promoted") == 1
        asked_.ended("stop", 70, 12)
    assert value(metrics, "questions_running", model="promoted") == 0
    assert value(metrics, "questions_total", model="promoted", outcome="stop") == 1
    assert value(metrics, "prompt_tokens_total", model="promoted") == 70
    assert value(metrics, "output_tokens_total", model="promoted") == 12
    assert value(metrics, "first_piece_seconds_count", model="promoted") == 1
    assert value(metrics, "answer_seconds_count", model="promoted") == 1


@pytest.mark.parametrize(("error", "outcome"), [(ValueError, "failed"), (asyncio.CancelledError, "cancelled")])
@pytest.mark.parametrize("has_begun", [False, True])
def test_an_answer_that_does_not_come_leaves_nothing_running(
    error: type[BaseException], outcome: str, has_begun: bool
) -> None:
    metrics = Metrics(standing)
    with contextlib.suppress(error), metrics.question("promoted") as asked_:
        if has_begun:
            asked_.begun()
        raise error
    assert value(metrics, "questions_total", model="promoted", outcome=outcome) == 1
    assert not value(metrics, "questions_waiting", model="promoted")
    assert not value(metrics, "questions_running", model="promoted")


def test_what_clients_write_makes_no_labels() -> None:
    metrics = Metrics(standing)
    for number in range(50):
        with metrics.question(f"name-{number}") as asked_:
            asked_.ended("stop", 1, 1)
        metrics.request(f"VERB{number}", "unmatched", 404, 0.1)
    assert value(metrics, "questions_total", model="other", outcome="stop") == 50
    assert value(metrics, "requests_total", method="other", route="unmatched", status="404") == 50


def test_models_stand_as_they_do_when_asked() -> None:
    metrics = Metrics(standing)
    assert value(metrics, "model_state", model="promoted", state="serving") == 1
    assert value(metrics, "model_state", model="ocr", state="serving") == 0
    assert value(metrics, "model_state", model="ocr", state="loading") == 1
    labels = {"model": "promoted", "checkpoint": "vlm-1", "digest": "ab" * 6, "skill": "", "engine": "fake 1"}
    assert value(metrics, "model_since", **labels) == 1000


def test_prometheus_can_read_it() -> None:
    app, metrics = FastAPI(), Metrics(standing)
    add_metrics(app, metrics)
    metrics.request("POST", "/v1/captions", 200, 0.2)
    metrics.image("image/png")
    answered = asyncio.run(asked(app, "GET", "/metrics"))
    assert answered.status == 200
    assert answered.headers["content-type"].startswith("text/plain")
    assert b'vila2_requests_total{method="POST",route="/v1/captions",status="200"} 1.0' in answered.body
    assert b'vila2_images_total{media_type="image/png"} 1.0' in answered.body
    assert b"process_resident_memory_bytes" in answered.body
