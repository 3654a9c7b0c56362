from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, StreamingResponse

from tests.unit.serve.wire import Answered, asked, messages, scope_of, served
from vila2_ray.config.serving import ServeConfig
from vila2_ray.errors import Overloaded
from vila2_ray.serve import problems, rim
from vila2_ray.serve.keys import Keys, add_key
from vila2_ray.serve.metrics import Metrics, add_metrics
from vila2_ray.serve.problems import request_id


def made(keys: Keys | None = None, metrics: Metrics | None = None, **more: bool) -> FastAPI:
    app, metrics = FastAPI(), metrics or Metrics()
    problems.install(app)
    add_metrics(app, metrics)
    rim.install(app, ServeConfig(max_body_mb=0.001), keys, metrics, **more)

    @app.get("/v1/echo/{word}")
    async def echo(word: str, request: Request) -> str:
        return request_id(request.scope)

    @app.get("/", response_class=HTMLResponse)
    async def page() -> str:
        return "<p>"

    @app.get("/breaks")
    async def breaks() -> None:
        raise RuntimeError("password=x")

    @app.get("/busy")
    async def busy() -> None:
        raise Overloaded("64 wait", 2)

    @app.post("/v1/captions")
    async def captions(request: Request) -> int:
        return len(await request.body())

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def pieces() -> AsyncIterator[str]:
            yield "one"
            raise RuntimeError("in the middle")

        return StreamingResponse(pieces(), media_type="text/event-stream")

    return app


def ask(app: FastAPI, path: str, headers: dict[str, str] | None = None, method: str = "GET", *parts: bytes) -> Answered:
    return asyncio.run(asked(app, method, path, headers, parts))


def test_requests_are_named_by_the_client_or_here() -> None:
    app = made()
    ours = ask(app, "/v1/echo/a")
    assert len(ours.headers["x-request-id"]) == 32
    assert ours.json == ours.headers["x-request-id"]
    theirs = ask(app, "/v1/echo/a", {"X-Request-Id": "job-7.b_c"})
    assert theirs.json == theirs.headers["x-request-id"] == "job-7.b_c"


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "a\tb", "<script>", "ä", "-a", "a;b"])
def test_names_that_do_not_fit_into_a_log_are_not_taken(name: str) -> None:
    assert len(ask(made(), "/v1/echo/a", {"X-Request-Id": name}).json) == 32


def test_a_proxy_may_name_the_answers_itself() -> None:
    answered = ask(made(names_answers=False), "/v1/echo/a", {"X-Request-Id": "job-7"})
    assert "x-request-id" not in answered.headers
    assert answered.json == "job-7"


def test_browsers_are_told_to_be_careful() -> None:
    app = made()
    answer, page, docs = (ask(app, path).headers for path in ("/v1/echo/a", "/", "/docs"))
    assert all(headers["x-content-type-options"] == "nosniff" for headers in (answer, page, docs))
    assert (answer["cache-control"], page["cache-control"]) == ("no-store", "no-cache")
    assert answer["content-security-policy"].startswith("default-src 'none'; frame-ancestors")
    assert "script-src 'self';" in page["content-security-policy"]
    assert "unsafe" not in page["content-security-policy"]
    assert "cdn.jsdelivr.net" in docs["content-security-policy"]
    assert "script-src" not in ask(app, "/docs/nowhere").headers["content-security-policy"]


@pytest.mark.parametrize(("path", "status"), [("/breaks", 500), ("/busy", 429), ("/nowhere", 404)])
def test_errors_have_names_and_headers_too(path: str, status: int) -> None:
    answered = ask(made(), path, {"X-Request-Id": "r9"})
    assert (answered.status, answered.headers["x-request-id"], answered.json["instance"]) == (status, "r9", "r9")
    assert answered.headers["x-content-type-options"] == "nosniff"
    assert b"password" not in answered.body


def test_an_answer_that_breaks_off_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RuntimeError):
        ask(made(), "/stream", {"X-Request-Id": "r9"})
    assert "request r9 broke off" in caplog.text


def test_the_log_tells_who_and_what_but_no_secrets(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    secret = add_key(tmp_path / "keys", "alice")
    app = made(Keys.read(tmp_path / "keys"))
    caplog.set_level(logging.DEBUG)
    scope = scope_of("GET", f"/v1/echo/{secret}", {"Authorization": f"Bearer {secret}"})
    scope["query_string"] = f"prompt=private&key={secret}".encode()
    assert asyncio.run(asked(app, scope=scope)).status == 200
    logging.getLogger("uvicorn.access").info("%s", f"GET /?key={secret}")
    assert ask(app, "/v1/echo/a", {"Authorization": f"Bearer {secret}x"}).status == 401
    line = next(record.getMessage() for record in caplog.records if record.name == "vila2_ray.serve.access")
    assert line.startswith("GET /v1/echo/{word} 200 ")
    assert line.endswith(" key=alice")
    assert secret not in caplog.text
    assert "private" not in caplog.text


def test_probes_are_quiet_unless_they_fail(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    ask(made(), "/metrics")
    assert not [record for record in caplog.records if record.name == "vila2_ray.serve.access"]


def test_figures_know_routes_by_their_templates() -> None:
    metrics = Metrics()
    app = made(metrics=metrics)
    for path in ("/v1/echo/a", "/v1/echo/b", "/nowhere/1", "/nowhere/2", "/v1/captions"):
        ask(app, path)

    def count(route: str, status: int) -> float | None:
        labels = {"method": "GET", "route": route, "status": str(status)}
        return metrics.registry.get_sample_value("vila2_requests_total", labels)

    assert count("/v1/echo/{word}", 200) == 2
    assert count("unmatched", 404) == 2
    assert count("/v1/captions", 405) == 1


def test_a_client_that_leaves_is_counted_as_such() -> None:
    metrics = Metrics()
    app = made(metrics=metrics)

    async def run() -> None:
        script = messages([b"a"])
        script[0]["more_body"] = True
        arrived = asyncio.Event()

        async def receive() -> dict[str, object]:
            if script:
                return dict(script.pop())
            arrived.set()
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: object) -> None: ...

        asking = asyncio.create_task(app(scope_of("POST", "/v1/captions"), receive, send))  # type: ignore[arg-type]
        await arrived.wait()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    asyncio.run(run())
    labels = {"method": "POST", "route": "/v1/captions", "status": "499"}
    assert metrics.registry.get_sample_value("vila2_requests_total", labels) == 1


def test_gate_comes_before_the_body_is_read(tmp_path: Path) -> None:
    add_key(tmp_path / "keys", "alice")
    app = made(Keys.read(tmp_path / "keys"))
    answered = ask(app, "/v1/captions", {"content-length": "9999"}, "POST", b"a" * 9999)
    assert (answered.status, answered.headers["connection"]) == (401, "close")
    assert ask(made(), "/v1/captions", {"content-length": "9999"}, "POST", b"a" * 9999).status == 413
    assert ask(made(), "/v1/captions", None, "POST", b"a" * 99).body == b"99"
    assert [ask(app, path).status for path in ("/", "/docs", "/openapi.json", "/metrics", "/breaks")] == [200] * 3 + [
        401
    ] * 2


def test_websockets_are_closed_and_lifespans_pass() -> None:
    sent: list[str] = []

    async def run(kind: str) -> None:
        async def receive() -> dict[str, str]:
            return {"type": f"{kind}.shutdown" if sent else f"{kind}.startup"}

        async def send(message: dict[str, str]) -> None:
            sent.append(message["type"])

        await made()({"type": kind, "headers": [], "path": "/", "asgi": {}}, receive, send)  # type: ignore[arg-type]

    asyncio.run(run("websocket"))
    assert sent == ["websocket.close"]
    sent.clear()
    asyncio.run(run("lifespan"))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_the_pages_files_are_open(tmp_path: Path) -> None:
    (tmp_path / "js").mkdir()
    (tmp_path / "js" / "app.js").touch()
    assert set(rim.page_paths(tmp_path)) >= {"/", "/js/app.js", "/page/js/app.js"}


def test_a_real_server_keeps_the_connection_and_streams_through() -> None:
    async def run() -> tuple[bytes, bytes]:
        async with served(made()) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            told = []
            for _ in range(2):
                writer.write(b"GET /v1/echo/a HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: r1\r\n\r\n")
                told.append(await reader.readuntil(b'"r1"'))
            writer.close()
            return told[0], told[1]

    first, second = asyncio.run(asyncio.wait_for(run(), 60))
    assert first.startswith(b"HTTP/1.1 200")
    assert second.startswith(b"HTTP/1.1 200")
