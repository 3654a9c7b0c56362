"""Records for programs: one JSON object a line, about campaign and stage; nothing unless it is asked for."""

from __future__ import annotations

import json
import logging
import socket

import pytest

from vila2_ray import logs
from vila2_ray.errors import ConfigError


def told(captured: str) -> list[dict]:
    return [json.loads(line) for line in captured.splitlines()]


def test_a_record_says_what_it_is_about(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(logs.VARIABLE, "json")
    with logs.written(), logs.telling_of(campaign="s3://bucket/coyo"):
        with logs.telling_of(stage="recaption-1"):
            logs.tell("shard finished", shard="00017", rows=5000)
        logs.tell("driver ends")
        logging.getLogger("vila2_ray.train.tracking").warning("cannot keep %s", "up")
    shard, end, warning = told(capsys.readouterr().err)
    assert shard["message"] == "shard finished"
    assert {name: shard[name] for name in ("campaign", "stage", "shard", "rows", "node")} == {
        "campaign": "s3://bucket/coyo",
        "stage": "recaption-1",
        "shard": "00017",
        "rows": 5000,
        "node": socket.gethostname(),
    }
    assert (end["message"], "stage" in end) == ("driver ends", False)
    assert (warning["message"], warning["levelname"]) == ("cannot keep up", "WARNING")


def test_a_worker_takes_over_what_its_driver_is_about() -> None:
    with logs.telling_of(campaign="a", stage="b"):
        given = logs.about()
    assert logs.about() == {}
    try:
        logs.adopt(given)
        assert logs.about() == {"campaign": "a", "stage": "b"}
    finally:
        logs.adopt({})


def test_without_the_variable_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(logs.VARIABLE, raising=False)
    with logs.written():
        logs.tell("stage begins")
        logs.tell("range failed whole", level=logging.WARNING)
    assert capsys.readouterr() == ("", "")


def test_records_are_handed_over_to_a_handler_that_is_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(logs.VARIABLE, "json")
    with logs.written():
        logs.hand_over()
        logs.tell("stage ends", seconds=1.5)
    assert capsys.readouterr().err == ""
    (record,) = caplog.records
    assert (record.getMessage(), record.seconds) == ("stage ends", 1.5)


def test_another_word_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(logs.VARIABLE, "yaml")
    with pytest.raises(ConfigError, match="VILA2_LOG = 'yaml': json"):
        logs.is_json()
