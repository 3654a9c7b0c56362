"""Whatever the endpoint's own OpenAPI lets one send is answered, and as it says: never 5xx, never a surprise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from tests.e2e.served import served
from tests.unit.serve.scripted import PROMPTS, SETTINGS, ScriptedCaptioner, data_url, in_base64, png
from vila2_ray.serve.app import create_app

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    unsupported_method,
]
FEW = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
RED = png("red")


@pytest.fixture(scope="module")
def described() -> Iterator[Any]:
    with served(create_app(ScriptedCaptioner(), SETTINGS, PROMPTS)) as url:
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


schema = schemathesis.pytest.from_fixture("described")


@schema.parametrize()
@FEW
def test_the_endpoint_answers_as_it_says(case: Any) -> None:
    _with_pictures(case.body)
    case.call_and_validate(checks=CHECKS, timeout=60)


@pytest.mark.slow
@schema.parametrize()
@MANY
def test_the_endpoint_answers_as_it_says_at_length(case: Any) -> None:
    _with_pictures(case.body)
    case.call_and_validate(checks=CHECKS, timeout=60)


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
