"""The model that judges: captions in pairs (`vila2 judge ask`), and benchmarks' open answers. All operational."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from vila2_ray.config.fields import check_not_negative, check_positive, operational
from vila2_ray.errors import ConfigError

_PRICES = ("dollars_per_million_input_tokens", "dollars_per_million_output_tokens")


@dataclass(frozen=True)
class JudgeConfig:
    """An endpoint that speaks OpenAI's chat completions: a provider's, vLLM's, or the campaign's own."""

    endpoint: str = operational("")
    """Its base, for example http://127.0.0.1:8000/v1. Empty: no model judges."""
    model: str = operational("")
    """As the endpoint names it. Empty: its only one."""
    key: str = operational("")
    """Name of the environment variable that holds the API key, for example OPENAI_API_KEY: never the key itself."""
    at_once: int = operational(8)
    """Questions under way at the same time."""
    timeout_seconds: float = operational(120.0)
    """Of one answer."""
    max_retries: int = operational(6)
    """Of one question, where the endpoint is busy (429), broken (5xx) or away; waits grow, and Retry-After is kept."""
    max_tokens: int = operational(1024)
    """Of an answer. A model that thinks before it answers needs more."""
    temperature: float = operational(0.0)
    max_side: int = operational(1024)
    """Pixels of the longer side of a picture that is sent; larger ones are made smaller."""
    dollars_per_million_input_tokens: float = operational(0.0)
    """What the provider's price list says of the model, pictures counted as the tokens that `usage` tells. 0: nothing
    is charged, as by an endpoint of your own."""
    dollars_per_million_output_tokens: float = operational(0.0)

    def __post_init__(self) -> None:
        check_positive("judge", self, "at_once", "timeout_seconds", "max_tokens", "max_side")
        check_not_negative("judge", self, "max_retries", "temperature", *_PRICES)
        if self.key and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.key):  # it may be the key: never repeated
            remedy = "must be the NAME of an environment variable, in capitals (OPENAI_API_KEY), never the key itself"
            raise ConfigError("judge.key", "…", remedy)
        if self.endpoint:
            _check_address(self.endpoint)

    def dollars(self, input_tokens: int, output_tokens: int) -> float:
        """What so many tokens cost."""
        inputs, outputs = (getattr(self, name) for name in _PRICES)
        return float(input_tokens * inputs + output_tokens * outputs) / 1e6

    @property
    def is_priced(self) -> bool:
        return any(getattr(self, name) for name in _PRICES)


def _check_address(endpoint: str) -> None:
    try:
        parts = urlsplit(endpoint)
        host = parts.hostname
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise ConfigError("judge.endpoint", endpoint, "must be an address, for example http://127.0.0.1:8000/v1")
    if parts.username is not None or parts.query or parts.fragment:
        remedy = (
            "must be without user, password and query; a key stands in an environment variable that judge.key names"
        )
        raise ConfigError("judge.endpoint", f"{parts.scheme}://{host}…", remedy)
    if parts.path.rstrip("/").endswith("/completions"):
        raise ConfigError("judge.endpoint", endpoint, "is one route; name what stands before /chat/completions")
