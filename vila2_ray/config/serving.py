"""The caption endpoint. All operational: nothing that is made depends on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vila2_ray.config.fields import check_positive, operational
from vila2_ray.errors import ConfigError


@dataclass(frozen=True)
class ServeConfig:
    """What `vila2 serve` starts. Which engine answers, and how, is `recaption.engine`."""

    host: str = operational("127.0.0.1")
    """Address to listen on. Others than loopback need keys."""
    port: int = operational(8000)
    models: tuple[str, ...] = operational(("promoted",))
    """What is served side by side: `promoted` (follows the campaign's promotion), a model of the campaign (vlm-0), or a
    skill (ocr: its specialist). Questions that name none go to the first."""
    process: Literal["auto", "shared", "own"] = operational("auto")
    """Of an endpoint on this machine alone. `shared`: one process listens and generates, without Ray; nothing is
    faster, and an engine that dies badly takes the endpoint with it. `own`: each model's replicas are processes on Ray
    Serve. `auto`: shared for one replica of one model without a GPU."""
    keys: str = operational("")
    """File of hashed API keys, as `vila2 serve-key` writes it. Empty: no keys, on loopback only."""
    docs: bool = operational(True)
    """Whether the page at / and the interactive API documentation are served."""
    access_log: bool = operational(True)
    """A line on standard error for each request, without prompts and keys."""
    max_body_mb: float = operational(32.0)
    """Of one request, in 2**20 bytes, with what is fetched for it."""
    max_bodies_mb: float = operational(1024.0)
    """Of all requests that are not answered yet, in 2**20 bytes; who brings more gets 429."""
    max_images: int = operational(16)
    """Of one request."""
    max_pixels: int = operational(40_000_000)
    """Width × height of an image."""
    max_prompt_characters: int = operational(8_000)
    """Of all turns of a conversation together."""
    max_tokens: int = operational(1024)
    """The most that a request may ask for."""
    default_tokens: int = operational(256)
    """What it gets where it does not say."""
    fetch_urls: bool = operational(False)
    """Whether images may be given as http(s) addresses; then never private ones."""
    fetch_timeout_seconds: float = operational(10.0)
    timeout_seconds: float = operational(120.0)
    """Of one request, from its last byte to the answer's last."""
    max_waiting: int = operational(64)
    """Questions to one replica beyond those that its engine runs together; more get 429."""
    min_replicas: int = operational(1)
    """Of each served model."""
    max_replicas: int = operational(1)
    """Autoscaling adds replicas while those that there are, are full."""
    poll_seconds: float = operational(2.0)
    """How often the campaign is asked whether something was promoted, pinned or rolled back."""
    load_timeout_seconds: float = operational(900.0)
    """For a checkpoint to load and to caption its first picture; a longer one has failed."""
    drain_seconds: float = operational(120.0)
    """For questions that still run when their checkpoint is replaced or the endpoint stops."""

    def __post_init__(self) -> None:
        positive: tuple[str, ...] = ("max_body_mb", "max_images", "max_pixels", "max_prompt_characters", "max_tokens")
        positive += ("default_tokens", "fetch_timeout_seconds", "timeout_seconds", "min_replicas", "poll_seconds")
        check_positive("serve", self, *positive, "load_timeout_seconds", "drain_seconds")
        if not 0 <= self.port < 65536:
            raise ConfigError("serve.port", self.port, "must lie between 0 (any free one) and 65535")
        if not self.models or len(set(self.models)) < len(self.models):
            raise ConfigError("serve.models", self.models, "name at least one, each once, for example promoted")
        if self.max_bodies_mb < self.max_body_mb:
            remedy = f"must not be smaller than serve.max_body_mb = {self.max_body_mb:g}"
            raise ConfigError("serve.max_bodies_mb", self.max_bodies_mb, remedy)
        if self.max_waiting < 0:
            raise ConfigError("serve.max_waiting", self.max_waiting, "must not be negative")
        if self.max_replicas < self.min_replicas:
            remedy = f"must not be smaller than serve.min_replicas = {self.min_replicas}"
            raise ConfigError("serve.max_replicas", self.max_replicas, remedy)
        if self.default_tokens > self.max_tokens:
            remedy = f"must not be greater than serve.max_tokens = {self.max_tokens}"
            raise ConfigError("serve.default_tokens", self.default_tokens, remedy)
