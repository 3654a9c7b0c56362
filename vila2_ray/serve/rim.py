"""The outermost layer: a name for each request, headers that keep browsers safe, one line in the log, one figure.

    rim  →  gate  →  bodies  →  the app's routes

The log tells neither prompts nor addresses' queries nor keys; the name of the key that asked it tells.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vila2_ray.config.serving import ServeConfig
from vila2_ray.serve.bodies import Bodies
from vila2_ray.serve.gate import ALWAYS_OPEN, Gate
from vila2_ray.serve.hiding import hide_keys
from vila2_ray.serve.keys import Keys
from vila2_ray.serve.logs import ACCESS, SERVE
from vila2_ray.serve.metrics import Metrics
from vila2_ray.serve.problems import answer, request_id

_LOG = logging.getLogger(SERVE)
_ACCESS = logging.getLogger(ACCESS)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CLIENT_LEFT = 499
"""The status, in log and figures alone, of a request that ended before its answer began."""
_QUIET = frozenset({*ALWAYS_OPEN, "/metrics"})
_PAGE = Path(__file__).parent / "page"
_CACHED = ("text/html", "text/css", "text/javascript", "application/javascript", "image/", "font/")
"""Of the page: kept, and asked for anew each time. Everything else is an answer, and kept nowhere."""

_CLOSED = "default-src 'none'; frame-ancestors 'none'"
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self' data: blob:; font-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_DOCS_POLICY = (  # FastAPI's page of the API: its script and style come from there, and start inline
    "default-src 'none'; script-src 'self' 'unsafe-inline' https://cdn.jsdelivr.net; worker-src blob:; "
    "style-src 'self' 'unsafe-inline' https://cdn.jsdelivr.net https://fonts.googleapis.com; "
    "img-src 'self' data: https://fastapi.tiangolo.com https://cdn.redoc.ly; font-src https://fonts.gstatic.com; "
    "connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def install(
    app: FastAPI,
    settings: ServeConfig,
    keys: Keys | None,
    metrics: Metrics,
    open_paths: Iterable[str] = (),
    names_answers: bool = True,
) -> None:
    """Put rim, gate and bodies around `app`, in this order; errors that leave the routes are answered here.

    With keys, what needs none: probes, the page's files, the API's documentation, and `open_paths`. Everything else is
    closed. `names_answers`: whether answers carry X-Request-Id; a proxy in front, Ray Serve's for one, may do that.
    """
    docs = [url for url in (app.docs_url, app.redoc_url, app.swagger_ui_oauth2_redirect_url) if url]
    schema = [app.openapi_url] if app.openapi_url else []
    hide_keys()
    # The last one added is the outermost.
    whole, all_of_them = (int(mb * 2**20) for mb in (settings.max_body_mb, settings.max_bodies_mb))
    app.add_middleware(Bodies, max_bytes=whole, max_bytes_in_all=all_of_them)
    app.add_middleware(Gate, keys=keys, open_paths=(*docs, *schema, *page_paths(), *open_paths))
    app.add_middleware(Rim, metrics=metrics, docs_paths=docs, names_answers=names_answers)


def page_paths(folder: Path = _PAGE) -> tuple[str, ...]:
    """Addresses of the static page: its files stand at / or at /page/."""
    files = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
    return ("/", "/page/", "/favicon.ico", *(f"{at}{file}" for file in sorted(files) for at in ("/", "/page/")))


class Rim:
    """ASGI: what every HTTP request gets. Websockets are none of ours, and closed."""

    def __init__(
        self, app: ASGIApp, metrics: Metrics, docs_paths: Iterable[str] = (), names_answers: bool = True
    ) -> None:
        self.app, self.metrics = app, metrics
        self.docs_paths, self.names_answers = frozenset(docs_paths), names_answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = Headers(scope=scope).get("x-request-id", "")
        scope.setdefault("state", {})["request_id"] = asked if _ID.fullmatch(asked) else uuid.uuid4().hex
        since, status = time.perf_counter(), 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message.setdefault("headers", [])
                self._add_headers(scope, MutableHeaders(scope=message))
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except Exception as error:
            if status:  # half an answer is out: the server can only cut the connection, and logs why
                _LOG.error("request %s broke off in its answer", request_id(scope))
                raise
            await answer(error, scope)(scope, receive, send_with_headers)
        finally:
            self._tell(scope, status or _CLIENT_LEFT, time.perf_counter() - since)

    def _add_headers(self, scope: Scope, headers: MutableHeaders) -> None:
        kind = headers.get("content-type", "")
        if self.names_answers:
            headers["X-Request-Id"] = request_id(scope)
        headers["X-Content-Type-Options"] = "nosniff"
        headers["Referrer-Policy"] = "no-referrer"
        headers["Cross-Origin-Resource-Policy"] = "same-origin"
        headers.setdefault("Cache-Control", "no-cache" if kind.startswith(_CACHED) else "no-store")
        policy = _CLOSED
        if kind.startswith("text/html"):
            policy = _DOCS_POLICY if scope["path"] in self.docs_paths else _PAGE_POLICY
        headers.setdefault("Content-Security-Policy", policy)

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        route, method = route_of(scope), scope["method"]
        self.metrics.request(method, route, status, seconds)
        level = logging.DEBUG if route in _QUIET and status < 400 else logging.INFO
        state = scope.get("state", {})
        _ACCESS.log(
            level,
            "%s %s %d %.1f ms request=%s key=%s",
            method if method.isalpha() else "?",
            route,
            status,
            seconds * 1000,
            state["request_id"],
            state.get("key_name", "-"),
        )


def route_of(scope: Scope) -> str:
    """The template of the route that answered, never what a client wrote: `unmatched` where none did."""
    if "route" not in scope:
        return "unmatched"
    return str(getattr(scope["route"], "path", "")) or "/"
