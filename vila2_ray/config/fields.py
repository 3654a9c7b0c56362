"""How fields are declared, and the checks that many of them share."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import field
from typing import Any

from vila2_ray.errors import ConfigError

_WORD = r"[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
_LABEL_KEY = re.compile(rf"({_WORD}/)?{_WORD}")
_LABEL_SELECTOR = re.compile(rf"!?({_WORD}|in\({_WORD}(, ?{_WORD})*\))")


def operational(default: Any = dataclasses.MISSING, *, factory: Any = dataclasses.MISSING) -> Any:
    """A field that no fingerprint contains."""
    if factory is not dataclasses.MISSING:
        return field(default_factory=factory, metadata={"operational": True})
    return field(default=default, metadata={"operational": True})


def check_positive(prefix: str, obj: object, *names: str) -> None:
    for name in names:
        if getattr(obj, name) <= 0:
            raise ConfigError(f"{prefix}.{name}", getattr(obj, name), "must be greater than 0")


def check_not_negative(prefix: str, obj: object, *names: str) -> None:
    for name in names:
        if getattr(obj, name) < 0:
            raise ConfigError(f"{prefix}.{name}", getattr(obj, name), "must not be negative")


def check_share(prefix: str, obj: object, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(obj, name) <= 1:
            raise ConfigError(f"{prefix}.{name}", getattr(obj, name), "must lie between 0 and 1")


def check_labels(name: str, labels: Mapping[str, str]) -> None:
    """Ray's rules for label selectors, so that a slip is said here and not by a job that waits for ever."""
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key):
            raise ConfigError(name, key, "is no label of a Ray node: letters, digits, . _ - and one / after a domain")
        if not _LABEL_SELECTOR.fullmatch(value):
            raise ConfigError(f"{name}.{key}", value, "must be a value, !value, in(a,b) or !in(a,b)")


def semantic_fields(node: Any, prefix: str) -> dict[str, Any]:
    """Flat `dotted.name → value` of the semantic fields below a configuration node."""
    flat: dict[str, Any] = {}
    for spec in dataclasses.fields(node):
        if spec.metadata.get("operational"):
            continue
        value, name = getattr(node, spec.name), f"{prefix}.{spec.name}" if prefix else spec.name
        if spec.metadata.get("nodes"):
            for key, below in value.items():
                flat.update(semantic_fields(below, f"{name}.{key}"))
        elif dataclasses.is_dataclass(value):
            flat.update(semantic_fields(value, name))
        else:
            flat[name] = list(value) if isinstance(value, tuple) else value
    return flat
