"""Whatever the endpoint's own OpenAPI lets one send is answered, and as it says: never 5xx, never a surprise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.e2e.served import served
from tests.unit.serve.scripted import PROMPTS, SETTINGS, ScriptedCaptioner, data_url, in_base64, png
from vila2_ray.serve.app import create_app

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
BOUNDS = settings(deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
RED = png("red")


@pytest.fixture(scope="module")
def operations() -> Iterator[dict[str, Any]]:
    """By `METHOD path`."""
    with served(create_app(ScriptedCaptioner(), SETTINGS, PROMPTS)) as url:
        described = schemathesis.openapi.from_url(f"{url}/openapi.json")
        found = [operation.ok() for operation in described.get_all_operations()]
        yield {f"{one.method.upper()} {one.path}": one for one in found}


def answers_as_it_says(operation: Any, mode: GenerationMode, num_examples: int) -> None:
    """Send `num_examples` requests that the description allows, or that it forbids."""

    @settings(
        max_examples=num_examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        if mode is GenerationMode.POSITIVE:
            _with_pictures(case.body)
        case.call_and_validate(checks=CHECKS, timeout=60)

    check()


def test_the_endpoint_answers_as_it_says(operations: dict[str, Any]) -> None:
    assert {"POST /v1/captions", "POST /v1/chat/completions", "GET /v1/models", "GET /readyz"} <= set(operations)
    for name, operation in operations.items():
        answers_as_it_says(operation, GenerationMode.POSITIVE, 40 if name.startswith("POST") else 3)
        if name.startswith("POST"):
            answers_as_it_says(operation, GenerationMode.NEGATIVE, 40)


@pytest.mark.slow
def test_the_endpoint_answers_as_it_says_at_length(operations: dict[str, Any]) -> None:
    for name, operation in operations.items():
        for mode in GenerationMode:
            if mode is GenerationMode.POSITIVE or name.startswith("POST"):
                answers_as_it_says(operation, mode, 1500 if name.startswith("POST") else 50)


def _with_pictures(body: Any) -> None:
    """Half of all bodies get a real picture where they have room for one: nothing else comes through the checks."""
    if not isinstance(body, dict) or len(repr(body)) % 2:
        return
    for image in _items(body.get("images")):
        if "data" in image:
            image["data"] = in_base64(RED)
        elif "url" in image:
            image["url"] = data_url(RED)
    if "model" in body:
        body["model"] = "promoted"
    for message in _items(body.get("messages")):
        message["role"] = "user"
        for part in _items(message.get("content")):
            part.update({"type": "image_url", "image_url": {"url": data_url(RED)}})


def _items(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
