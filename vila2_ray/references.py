"""Secrets by reference: a job carries where a value lies, each of its processes looks there when it starts.

    file:/run/secrets/key      what a file on the node holds
    env:OTHER                  a variable of the node's own environment
    aws-sm:NAME[#KEY]          AWS Secrets Manager, or a key of the JSON that lies there
    aws-ssm:NAME               AWS's Parameter Store

`$VILA2_SECRETS` carries the references as JSON, name → reference. The driver resolves them before it touches storage,
Ray's worker processes by a hook before their first task; the values stand in their environments alone.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from vila2_ray.errors import ConfigError, in_one_line

VARIABLE = "VILA2_SECRETS"
HOOK = "vila2_ray.references.resolve_here"
"""What a job's runtime environment names as `worker_process_setup_hook`."""
KNOWN = "file:/PATH, env:NAME, aws-sm:NAME[#KEY] or aws-ssm:NAME"


def parse(words: Iterable[str]) -> dict[str, str]:
    """`NAME=REFERENCE`, or `NAME` alone (an empty reference: the submitting shell's own value).

    Raises ConfigError, which never repeats what stands behind the `=`: it may be the secret itself.
    """
    found: dict[str, str] = {}
    for word in words:
        name, equals, reference = word.partition("=")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ConfigError("--secret", "…", "must begin with the name of an environment variable: NAME=REFERENCE")
        scheme, colon, place = reference.partition(":")
        if equals and not (colon and scheme in _READERS and place):
            raise ConfigError("--secret", f"{name}=…", f"a value never travels; say where it lies: {KNOWN}")
        found[name] = reference
    return found


def resolve_here() -> None:
    """Put the values that `$VILA2_SECRETS` refers to into this process's environment. Raises ConfigError."""
    for name, reference in json.loads(os.environ.get(VARIABLE) or "{}").items():
        os.environ[name] = resolve(name, reference)


def resolve(name: str, reference: str) -> str:
    """The value behind a reference. Raises ConfigError naming variable and reference."""
    scheme, _, place = reference.partition(":")
    reader = _READERS.get(scheme)
    if reader is None:
        raise ConfigError(name, scheme, f"is no kind of reference to a secret; take {KNOWN}")
    try:
        return reader(place)
    except Exception as error:  # whatever a cloud's client raises: no job can go on without
        remedy = f"cannot be read on this node ({in_one_line(error)}); put it there, or let this node read it"
        raise ConfigError(name, reference, remedy) from None


def _file(place: str) -> str:
    return Path(place).read_text("utf-8").rstrip("\r\n")


def _environment(place: str) -> str:
    if not (value := os.environ.get(place)):
        raise LookupError(f"${place} is not set")
    return value


def _secrets_manager(place: str) -> str:
    import boto3

    name, _, key = place.partition("#")
    text = boto3.client("secretsmanager").get_secret_value(SecretId=name)["SecretString"]
    return str(json.loads(text)[key]) if key else text


def _parameter_store(place: str) -> str:
    import boto3

    return boto3.client("ssm").get_parameter(Name=place, WithDecryption=True)["Parameter"]["Value"]


_READERS: dict[str, Callable[[str], str]] = {
    "file": _file,
    "env": _environment,
    "aws-sm": _secrets_manager,
    "aws-ssm": _parameter_store,
}
