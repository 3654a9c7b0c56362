from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from vila2_ray.serve.logs import ACCESS, SERVE, show_logs


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """The handler goes again, and the level of the log of requests."""
    before = logging.getLogger(SERVE).handlers[:]
    yield
    logging.getLogger(SERVE).handlers[:] = before
    logging.getLogger(ACCESS).setLevel(logging.NOTSET)


def test_requests_are_told_once_each_unless_unwanted(capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger(SERVE).handlers.clear()
    show_logs(with_requests=True)
    show_logs(with_requests=True)
    logging.getLogger(ACCESS).info("POST /v1/captions 200")
    logging.getLogger(SERVE).warning("the campaign cannot be read")
    show_logs(with_requests=False)
    logging.getLogger(ACCESS).info("GET /healthz 200")
    told = capsys.readouterr().err.splitlines()
    assert [line.partition(" INFO ")[2] or line.partition(" WARNING ")[2] for line in told] == [
        "POST /v1/captions 200",
        "the campaign cannot be read",
    ]
