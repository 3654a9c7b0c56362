"""Keeps API keys out of logs, whoever writes them: the server's own tells addresses with all that stands in them."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

from vila2_ray.serve.keys import PREFIX
from vila2_ray.serve.logs import ACCESS, SERVE

_SECRETS = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{8,}}|(?i:(?<=bearer )|(?<=bearer%20))[A-Za-z0-9._~+/=-]{{8,}}")
_LOGGERS = ("", SERVE, ACCESS, "uvicorn", "uvicorn.access", "uvicorn.error", "ray.serve")
_HIDDEN = "‹key›"


def hidden(text: str) -> str:
    """`text` without the API keys in it."""
    return _SECRETS.sub(_HIDDEN, text)


class HidesKeys(logging.Filter):
    """Lets every record pass, without the keys in it."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg = _clean(record.msg)
        if isinstance(record.args, Mapping):
            record.args = {name: _clean(value) for name, value in record.args.items()}
        elif record.args:  # each in its place: formatters count them
            record.args = tuple(_clean(value) for value in record.args)
        if record.exc_info and not record.exc_text:  # formatters take this text where it is there
            record.exc_text = hidden(logging.Formatter().formatException(record.exc_info))
        return True


def _clean(value: object) -> object:
    if value is None or isinstance(value, (int, float)):
        return value
    said = str(value)
    return clean if (clean := hidden(said)) != said else value


def hide_keys() -> None:
    """Put the filter on the loggers that tell of requests, once, and on the handlers that others hang there."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        for where in (logger, *logger.handlers):
            if not any(isinstance(one, HidesKeys) for one in where.filters):
                where.addFilter(HidesKeys())
