"""The page's files without a browser: types, caching, policy, and nothing from any other host."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from tests.unit.pagefiles import check_is_its_own, check_is_whole
from vila2_ray.config.serving import ServeConfig
from vila2_ray.serve.heldfiles import POLICY
from vila2_ray.serve.page import mount_page, page_files

FILES = page_files()


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    mount_page(app, ServeConfig(max_body_mb=7.5))
    return TestClient(app)


def test_files_have_their_types_and_the_policy(client: TestClient) -> None:
    kinds = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    for name in FILES:
        got = client.get("/" if name == "index.html" else f"/page/{name}")
        assert got.status_code == 200
        assert got.headers["content-type"].startswith(kinds[name.rpartition(".")[2]])
        assert got.headers["content-security-policy"] == POLICY
        assert got.headers["x-content-type-options"] == "nosniff"
        assert got.content == FILES[name].content


def test_a_file_is_sent_again_only_when_it_changed(client: TestClient) -> None:
    first = client.get("/page/main.js")
    assert first.headers["cache-control"] == "no-cache"
    again = client.get("/page/main.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/page/main.js", headers={"If-None-Match": '"old"'}).status_code == 200


def test_the_page_is_told_the_bounds(client: TestClient) -> None:
    told = client.get("/page/limits.json")
    assert told.headers["content-type"] == "application/json"
    assert told.json() == {
        "max_body_mb": 7.5, "max_images": 16, "max_pixels": 40_000_000, "max_tokens": 1024, "default_tokens": 256
    }  # fmt: skip


def test_only_the_pages_files_are_there(client: TestClient) -> None:
    for path in ("/page/", "/page/none.js", "/page/..%2Fpage.py", "/page/../page.py", "/page/%2e%2e/page.py"):
        assert client.get(path).status_code == 404
    assert client.head("/").status_code == 200
    assert client.post("/").status_code == 405
    assert client.get("/openapi.json").json()["paths"] == {}


def test_the_policy_lets_nothing_in_from_elsewhere() -> None:
    rules = dict(rule.split(" ", 1) for rule in POLICY.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert "unsafe" not in POLICY


@pytest.mark.parametrize("name", sorted(FILES))
def test_nothing_refers_to_another_host_or_stands_inline(name: str) -> None:
    check_is_its_own(name, FILES[name])


def test_what_the_page_needs_is_there() -> None:
    check_is_whole(FILES)
