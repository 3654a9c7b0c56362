"""Who may ask: holders of a key; and where there are no keys, this machine, but no stranger's web page on it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from vila2_ray.serve.keys import Keys
from vila2_ray.serve.problems import Problem
from vila2_ray.serve.refusing import refuse

ALWAYS_OPEN = ("/healthz", "/readyz")
"""What probes ask, which hold no key."""


class Gate:
    """ASGI: lets a request through if it holds a key, or asks for one of the `open_paths`.

    Without keys the endpoint listens on loopback, where any page in a browser on this machine could ask as well:
    requests of other origins, and those by a name that a stranger could have pointed at this machine, are refused.
    """

    def __init__(self, app: ASGIApp, keys: Keys | None, open_paths: Iterable[str] = ()) -> None:
        self.app, self.keys = app, keys
        self.open_paths = frozenset((*ALWAYS_OPEN, *open_paths))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        problem = self._problem(scope, Headers(scope=scope))
        if problem is None:
            await self.app(scope, receive, send)
        else:
            await refuse(problem, scope, receive, send)

    def _problem(self, scope: Scope, headers: Headers) -> Problem | None:
        if self.keys is None:
            return _foreign(headers)
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        if path in self.open_paths:
            return None
        presented = _presented(headers)
        if presented is None:
            detail = "give an API key: Authorization: Bearer KEY, or X-Api-Key: KEY"
            return _unauthorized(detail, "")
        name = self.keys.check(presented)
        if name is None:
            return _unauthorized("this API key is not known here", ', error="invalid_token"')
        scope.setdefault("state", {})["key_name"] = name
        return None


def _presented(headers: Headers) -> str | None:
    scheme, _, rest = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and rest.strip():
        return rest.strip()
    return headers.get("x-api-key") or None


def _unauthorized(detail: str, why: str) -> Problem:
    told = {"WWW-Authenticate": f'Bearer realm="vila2"{why}'}
    return Problem(401, "unauthorized", "No valid API key", detail, told)


def _foreign(headers: Headers) -> Problem | None:
    host = headers.get("host", "")
    if host and not _is_of_this_machine(host):
        detail = "without API keys this endpoint answers to localhost and IP addresses only, not to other host names"
        return Problem(403, "foreign-host", "Not by this name", detail)
    origin = headers.get("origin")
    if origin is not None and origin.lower().partition("://")[2] != host.lower():
        detail = "without API keys this endpoint does not answer to web pages of other origins"
        return Problem(403, "foreign-origin", "Not from this page", detail)
    return None


def _is_of_this_machine(host: str) -> bool:
    """An address or a name without a dot: nobody can register one, so that no stranger's name leads here."""
    name = _host_name(f"//{host}")
    return bool(name) and ("." not in name or name.endswith(".localhost") or _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _host_name(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
