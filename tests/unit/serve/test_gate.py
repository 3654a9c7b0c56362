from __future__ import annotations

import asyncio

import pytest

from tests.unit.serve.wire import Answered, asked, reads_all
from vila2_ray.serve.gate import Gate
from vila2_ray.serve.keys import Keys, add_key


@pytest.fixture(scope="module")
def secret_and_keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Keys]:
    file = tmp_path_factory.mktemp("gate") / "keys"
    return add_key(file, "alice"), Keys.read(file)


def ask(keys: Keys | None, path: str = "/v1/captions", headers: dict[str, str] | None = None) -> Answered:
    return asyncio.run(asked(Gate(reads_all, keys, ("/", "/style.css")), "GET", path, headers))


@pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "Bearer   {} "])
def test_keys_are_presented_as_bearer(secret_and_keys: tuple[str, Keys], form: str) -> None:
    secret, keys = secret_and_keys
    assert ask(keys, headers={"Authorization": form.format(secret)}).status == 200


def test_or_in_a_header_of_their_own(secret_and_keys: tuple[str, Keys]) -> None:
    secret, keys = secret_and_keys
    assert ask(keys, headers={"X-Api-Key": secret}).status == 200
    assert ask(keys, headers={"X-Api-Key": secret, "Authorization": "Basic eDp5"}).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer vila2-wrong"},
        {"Authorization": "Basic eDp5"},
        {"Authorization": "Bearer \xff\xfe"},
        {"X-Api-Key": ""},
        {"X-Api-Key": "ä"},
        {"Cookie": "key=vila2-wrong"},
    ],
)
def test_others_are_told_how(secret_and_keys: tuple[str, Keys], headers: dict[str, str]) -> None:
    answered = ask(secret_and_keys[1], headers=headers)
    assert answered.status == 401
    assert answered.headers["www-authenticate"].startswith("Bearer realm=")
    assert answered.headers["content-type"] == "application/problem+json"


def test_on_openais_routes_in_openais_words(secret_and_keys: tuple[str, Keys]) -> None:
    answered = ask(secret_and_keys[1], "/v1/models")
    assert (answered.status, answered.json["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/", "/style.css"])
def test_probes_and_the_page_are_open(secret_and_keys: tuple[str, Keys], path: str) -> None:
    assert ask(secret_and_keys[1], path).status == 200


@pytest.mark.parametrize(
    "path", ["/metrics", "/v1/models", "/nowhere", "/healthz/", "//healthz", "/healthz/../v1/captions", "/HEALTHZ"]
)
def test_everything_else_is_closed(secret_and_keys: tuple[str, Keys], path: str) -> None:
    assert ask(secret_and_keys[1], path).status == 401


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:8000",
        "localhost",
        "localhost:8000",
        "[::1]:8000",
        "10.0.0.3",
        "testserver",
        "a.localhost:1",
        "node-1",
    ],
)
def test_without_keys_this_machines_names_are_answered(host: str) -> None:
    assert ask(None, headers={"Host": host}).status == 200
    assert ask(None, headers={"Host": host, "Origin": f"http://{host}"}).status == 200


@pytest.mark.parametrize("host", ["evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "[::1", "@"])
def test_without_keys_names_that_a_stranger_can_own_are_not(host: str) -> None:
    assert ask(None, headers={"Host": host, "Origin": f"http://{host}"}).status == 403


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:3000", "", "http://127.0.0.1:8000.evil.example"]
)
def test_without_keys_pages_of_other_origins_are_not(origin: str) -> None:
    answered = ask(None, headers={"Host": "127.0.0.1:8000", "Origin": origin})
    assert (answered.status, answered.json["type"]) == (403, "/problems/foreign-origin")


def test_with_keys_any_name_and_origin_will_do(secret_and_keys: tuple[str, Keys]) -> None:
    secret, keys = secret_and_keys
    headers = {"Host": "captions.example.org", "Origin": "https://notebook.example.org", "X-Api-Key": secret}
    assert ask(keys, headers=headers).status == 200
