from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from tests.unit.serve.scripted import PROMPTS, SETTINGS, ScriptedCaptioner, png, served
from vila2_ray.serve.app import create_app
from vila2_ray.serve.captioner import Standing


@pytest.fixture
def captioner() -> ScriptedCaptioner:
    """A generalist, a specialist, and one that is still to come; nothing can be said of the green picture."""
    standings = (
        Standing("promoted", "serving", served("promoted")),
        Standing("ocr", "serving", served("ocr", "ocr-1", "ocr")),
        Standing("vlm-0", "loading", detail="vlm-0 is being loaded"),
    )
    return ScriptedCaptioner(standings, bad=png("green"))


@pytest.fixture
def client(captioner: ScriptedCaptioner) -> Iterator[TestClient]:
    with TestClient(create_app(captioner, SETTINGS, PROMPTS), raise_server_exceptions=False) as made:
        yield made
