"""Records for programs: what happened, with campaign, stage, shard and node, one JSON object a line. VILA2_LOG=json.

Lines for people are another matter (`progress`) and stay as they are. A driver writes its records to standard error;
once it is connected, Ray's own JSON logging takes over there and in every worker, and adds the ids of node, job, actor
and task. Without VILA2_LOG nothing is written. Records carry names and counts, never a caption, an
alt text or a secret.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from vila2_ray.errors import ConfigError

VARIABLE = "VILA2_LOG"
_ROOT = logging.getLogger("vila2_ray")
_LOG = logging.getLogger("vila2_ray.records")
_LOG.addHandler(logging.NullHandler())  # else Python writes warnings that nobody asked for to standard error
_STANDARD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", None, None))) | {"message", "asctime", "taskName"}

_about: dict[str, str] = {}
"""Campaign and stage of this process: a driver runs one, and a worker works for one driver."""


def tell(what: str, *, level: int = logging.INFO, **fields: object) -> None:
    """Write a record; `what` is a constant phrase that can be searched for, `fields` tell it apart."""
    if _LOG.isEnabledFor(level):
        _LOG.log(level, what, extra={**_about, "node": socket.gethostname(), **fields})


def about() -> dict[str, str]:
    """What this process works on, to be handed to workers, which `adopt` it."""
    return dict(_about)


def adopt(given: Mapping[str, str]) -> None:
    """From now on this process's records are about that."""
    _about.clear()
    _about.update(given)


@contextmanager
def telling_of(**fields: str) -> Iterator[None]:
    """Records within are about these, too."""
    before = about()
    _about.update(fields)
    try:
        yield
    finally:
        adopt(before)


def is_json() -> bool:
    """Whether records are wanted. Raises ConfigError for what VILA2_LOG cannot be."""
    given = os.environ.get(VARIABLE, "")
    if given not in ("", "json"):
        raise ConfigError(VARIABLE, given, "json, or leave it out")
    return given == "json"


@contextmanager
def written() -> Iterator[None]:
    """Records of this process go to standard error, where they are wanted."""
    if not is_json():
        yield
        return
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    _ROOT.addHandler(handler)
    _ROOT.setLevel(logging.INFO)
    _ROOT.propagate = False
    try:
        yield
    finally:
        _ROOT.removeHandler(handler)
        _ROOT.propagate = True


def hand_over() -> None:
    """To the handler that Ray has given this process's root logger when it was connected."""
    for handler in [found for found in _ROOT.handlers if isinstance(found.formatter, JsonLines)]:
        _ROOT.removeHandler(handler)
    _ROOT.propagate = True


class JsonLines(logging.Formatter):
    """A record as one line, with the keys that Ray's formatter has."""

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, object] = {
            "asctime": self.formatTime(record),
            "levelname": record.levelname,
            "message": record.getMessage(),
            "process": record.process,
        }
        told |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            told["exc_text"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str, ensure_ascii=False)
