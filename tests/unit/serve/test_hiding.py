from __future__ import annotations

import io
import logging

import pytest

from vila2_ray.serve.hiding import HidesKeys, hidden, hide_keys
from vila2_ray.serve.keys import new_key

SECRET = new_key("alice")[0]


@pytest.fixture
def log() -> tuple[logging.Logger, io.StringIO]:
    stream = io.StringIO()
    logger = logging.Logger("test")
    handler = logging.StreamHandler(stream)
    handler.addFilter(HidesKeys())
    logger.addHandler(handler)
    return logger, stream


def test_keys_are_hidden_wherever_they_stand(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, stream = log
    logger.warning(f"GET /?key={SECRET}")
    logger.warning("%s asked with %s", "alice", SECRET)
    logger.warning("%(key)s", {"key": SECRET})
    logger.warning("headers: %s", {"authorization": f"Bearer {SECRET}"})
    logger.warning("Authorization: Bearer %s", "sk-0123456789abcdef")
    logger.warning("Authorization: bearer sk-0123456789abcdef")
    try:
        raise ValueError(f"bad key {SECRET}")
    except ValueError:
        logger.exception("failed")
    said = stream.getvalue()
    assert SECRET not in said
    assert SECRET[10:] not in said
    assert said.count("‹key›") >= 6
    assert "Traceback" in said
    assert "alice asked with ‹key›" in said


def test_arguments_stay_in_their_places(log: tuple[logging.Logger, io.StringIO]) -> None:
    record = logging.LogRecord("uvicorn.access", 20, "", 1, '%s "%s %s" %d', ("::1", "GET", f"/?k={SECRET}", 200), None)
    assert HidesKeys().filter(record)
    assert record.args == ("::1", "GET", "/?k=‹key›", 200)


def test_other_words_stay(log: tuple[logging.Logger, io.StringIO]) -> None:
    assert hidden("vila2-ray 0.1.0 of the bearer of news") == "vila2-ray 0.1.0 of the bearer of news"


def test_servers_loggers_get_the_filter_once() -> None:
    logger = logging.getLogger("uvicorn.access")
    before = list(logger.filters)
    try:
        hide_keys()
        hide_keys()
        assert sum(isinstance(one, HidesKeys) for one in logger.filters) == 1
    finally:
        logger.filters[:] = before
