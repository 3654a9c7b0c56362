"""What Prometheus may ask: requests, questions, tokens, and how the served models stand.

Labels have few values whatever clients send: routes by their template, models by the names that are served.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.responses import Response

from vila2_ray.serve.captioner import Standing

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_STATES = ("serving", "loading", "failed")
_OTHER = "other"
"""The label of whatever is not known here."""

StandingNow = Callable[[], Iterable[Standing]]


class Metrics:
    """The figures of one process, in a registry of their own."""

    def __init__(self, standing: StandingNow = tuple) -> None:
        """`standing` is `Captioner.standing`: asked at each scrape, and for the names that labels may take."""
        self.registry = CollectorRegistry()
        self._standing = standing

        def made(kind: Any, name: str, told: str, *labels: str, **more: Any) -> Any:
            return kind(f"vila2_{name}", told, labels, registry=self.registry, **more)

        self._requests = made(Counter, "requests", "HTTP requests answered", "method", "route", "status")
        seconds = made(Histogram, "request_seconds", "Until the last byte of an answer", "route", buckets=_SECONDS)
        self._request_seconds = seconds
        self._questions = made(Counter, "questions", "Questions ended", "model", "outcome")
        first = made(Histogram, "first_piece_seconds", "Until an answer begins", "model", buckets=_SECONDS)
        self._first_piece_seconds = first
        self._answer_seconds = made(Histogram, "answer_seconds", "Until it is whole", "model", buckets=_SECONDS)
        self._prompt_tokens = made(Counter, "prompt_tokens", "Tokens read, images included", "model")
        self._output_tokens = made(Counter, "output_tokens", "Tokens written", "model")
        self._images = made(Counter, "images", "Pictures that came in", "media_type")
        self._waiting = made(Gauge, "questions_waiting", "Questions whose answer has not begun", "model")
        self._running = made(Gauge, "questions_running", "Questions whose answer has begun", "model")
        self.registry.register(_Standings(standing))
        ProcessCollector(registry=self.registry)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """One answered request; `route` is a template, such as /v1/captions."""
        self._requests.labels(method if method in _METHODS else _OTHER, route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def image(self, media_type: str) -> None:
        """One picture that came in whole: `Picture.media_type`."""
        self._images.labels(media_type).inc()

    def question(self, name: str) -> Asked:
        """One question to `name`, from now until the block ends: `with metrics.question(name) as asked: …`."""
        known = any(name == standing.name for standing in self._standing())
        return Asked(self, name if known else _OTHER)

    def exposed(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)


class Asked:
    """One question while it is asked. An exception that leaves the block is its outcome: failed, or cancelled."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics, self._model = metrics, model
        self._since = time.perf_counter()
        self._has_begun = False
        self._outcome = ""

    def __enter__(self) -> Asked:
        self._metrics._waiting.labels(self._model).inc()
        return self

    def begun(self) -> None:
        """The first piece is there. Saying it again changes nothing."""
        if not self._has_begun:
            self._has_begun = True
            self._metrics._waiting.labels(self._model).dec()
            self._metrics._running.labels(self._model).inc()
            self._metrics._first_piece_seconds.labels(self._model).observe(self._seconds())

    def ended(self, finish_reason: str, num_prompt_tokens: int, num_output_tokens: int) -> None:
        """The answer is whole."""
        self.begun()
        self._outcome = finish_reason
        self._metrics._prompt_tokens.labels(self._model).inc(num_prompt_tokens)
        self._metrics._output_tokens.labels(self._model).inc(num_output_tokens)
        self._metrics._answer_seconds.labels(self._model).observe(self._seconds())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        gauge = self._metrics._running if self._has_begun else self._metrics._waiting
        gauge.labels(self._model).dec()
        if not self._outcome:
            self._outcome = "failed" if kind is not None and issubclass(kind, Exception) else "cancelled"
        self._metrics._questions.labels(self._model, self._outcome).inc()

    def _seconds(self) -> float:
        return time.perf_counter() - self._since


def add_metrics(app: FastAPI, metrics: Metrics) -> None:
    """GET /metrics."""

    @app.get("/metrics", tags=["operation"], response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def exposed() -> Response:
        """Figures in Prometheus' text format."""
        return Response(metrics.exposed(), media_type=CONTENT_TYPE_LATEST)


class _Standings(Collector):
    """How the served models stand, asked when Prometheus asks."""

    def __init__(self, standing: StandingNow) -> None:
        self._standing = standing

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Nothing in advance: registering must not ask a captioner that has not started."""
        yield from ()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        state = GaugeMetricFamily("vila2_model_state", "1 for the state that holds", labels=("model", "state"))
        labels = ("model", "checkpoint", "digest", "skill", "engine")
        served = GaugeMetricFamily("vila2_model_since", "Unix time from when it is served", labels=labels)
        for one in self._standing():
            for name in _STATES:
                state.add_metric((one.name, name), float(one.state == name))
            if by := one.served:
                served.add_metric((one.name, by.model, by.digest[:12], by.skill, by.engine), by.since)
        yield from (state, served)
