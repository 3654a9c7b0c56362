from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from starlette.testclient import TestClient

import vila2_ray
from tests.unit.serve.scripted import PROMPTS, SETTINGS, ScriptedCaptioner, png, served
from vila2_ray.captions.prompts import FAMILY
from vila2_ray.serve.app import create_app
from vila2_ray.serve.captioner import Standing
from vila2_ray.serve.describing import CAPTIONS, CHAT


def test_the_app_loads_no_engine_and_no_ray() -> None:
    heavy = ("ray", "torch", "transformers", "vllm")
    code = f"import sys, vila2_ray.serve.app; print([name for name in {heavy} if name in sys.modules])"
    tree = Path(vila2_ray.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tree)
    assert done.stdout.strip() == "[]"


def test_the_captioner_lives_as_long_as_the_app() -> None:
    captioner = ScriptedCaptioner()
    with TestClient(create_app(captioner, SETTINGS, PROMPTS)) as client:
        assert captioner.started
        assert client.get("/healthz").json() == {"status": "ok"}
        assert not captioner.closed
    assert captioner.closed


def test_ready_is_when_the_first_model_serves(client: TestClient, captioner: ScriptedCaptioner) -> None:
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["ready"]) == (200, True)
    assert [one["state"] for one in ready.json()["models"]] == ["serving", "serving", "loading"]
    captioner.standings = (Standing("promoted", "loading", detail="a minute or two"), *captioner.standings[1:])
    waiting = client.get("/readyz")
    assert (waiting.status_code, waiting.json()["ready"]) == (503, False)
    assert waiting.json()["models"][0] == {"name": "promoted", "state": "loading"}, "and nothing more: it needs no key"
    assert client.get("/v1/standing").json()["models"][0]["detail"] == "a minute or two"
    captioner.standings = ()
    assert client.get("/readyz").status_code == 503
    assert client.get("/healthz").status_code == 200


def test_what_can_be_asked(client: TestClient) -> None:
    listed = client.get("/v1/prompts").json()
    assert listed["default"] == "detailed"
    assert {one["id"]: one["text"] for one in listed["prompts"]}["brief"] == FAMILY["brief"]


def test_who_is_served(client: TestClient) -> None:
    first, _, last = client.get("/v1/standing").json()["models"]
    assert first == {
        "name": "promoted",
        "state": "serving",
        "detail": "",
        "model": "vlm-1",
        "digest": served("promoted").digest,
        "skill": "",
        "engine": "scripted 1",
        "since": 1_763_900_000.0,
    }
    assert (last["model"], last["detail"]) == ("", "vlm-0 is being loaded")


def test_a_promotion_is_seen_at_once(client: TestClient, captioner: ScriptedCaptioner) -> None:
    captioner.put("promoted", served("promoted", "vlm-2"))
    files = {"image": ("a.png", png())}
    (caption,) = client.post("/v1/captions", files=files).json()["captions"]
    assert caption["checkpoint"]["model"] == "vlm-2"
    assert client.post("/v1/captions", files=files, data={"model": "vlm-1"}).status_code == 404


def test_the_description_is_whole(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    schemas = described["components"]["schemas"]
    asked, operations = str(described), 0
    for path, methods in described["paths"].items():
        for operation in methods.values():
            operations += 1
            assert operation["summary"], path
            if path != "/metrics":
                answer = operation["responses"]["200"]["content"]["application/json"]
                assert "example" in answer or "examples" in answer, path
    assert operations >= 7
    for reference in set(asked.split("#/components/schemas/")[1:]):
        assert reference.partition("'")[0] in schemas
    assert schemas["CaptionsRequest"]["properties"]["max_tokens"]["anyOf"][0]["maximum"] == SETTINGS.max_tokens
    assert schemas["CaptionsForm"]["properties"]["image"]["maxItems"] == SETTINGS.max_images
    assert "security" not in described


def test_the_examples_can_be_sent(client: TestClient) -> None:
    for path, told in (("/v1/captions", CAPTIONS), ("/v1/chat/completions", CHAT)):
        examples = told["openapi_extra"]["requestBody"]["content"]["application/json"]["examples"]
        for example in examples.values():
            assert client.post(path, json=example["value"]).status_code == 200


def test_without_docs_there_is_neither_page_nor_description() -> None:
    with TestClient(create_app(ScriptedCaptioner(), replace(SETTINGS, docs=False), PROMPTS)) as client:
        for path in ("/", "/docs", "/openapi.json", "/page/limits.json"):
            assert client.get(path).status_code == 404
    with TestClient(create_app(ScriptedCaptioner(), SETTINGS, PROMPTS)) as client:
        assert client.get("/").headers["Content-Type"].startswith("text/html")
        assert client.get("/page/limits.json").json()["max_images"] == SETTINGS.max_images


def test_figures(client: TestClient) -> None:
    client.post("/v1/captions", files={"image": ("a.png", png())}, data={"question": "What?"})
    client.post("/v1/captions", files={"image": ("a.png", png())}, data={"question": "die"})
    told = client.get("/metrics").text
    assert 'vila2_questions_total{model="promoted",outcome="stop"} 1.0' in told
    assert 'vila2_questions_total{model="promoted",outcome="failed"} 1.0' in told
    assert 'vila2_output_tokens_total{model="promoted"} 6.0' in told
    assert 'vila2_images_total{media_type="image/png"} 2.0' in told
    assert 'vila2_questions_running{model="promoted"} 0.0' in told
    assert 'route="/v1/captions"' in told


def test_other_addresses_and_methods_are_problems(client: TestClient) -> None:
    assert client.get("/nowhere").headers["Content-Type"] == "application/problem+json"
    wrong = client.get("/v1/captions")
    assert (wrong.status_code, wrong.headers["Allow"]) == (405, "POST")
