"""Files of a page, held in memory and served as they are, under a policy that lets nothing in from elsewhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""Content-Security-Policy: what the page may load, whatever a caption or a file's name tries to make it load."""

_HEADERS = {
    "Cache-Control": "no-cache",  # kept but asked for anew: an upgrade shows at once, else it costs a 304
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "json": "application/json",
}
"""By how a file's name ends; not the system's table, which differs between machines."""


@dataclass(frozen=True)
class PageFile:
    """A file of the page, held in memory."""

    content: bytes
    media_type: str

    @property
    def etag(self) -> str:
        """Changes with the content."""
        return f'"{hashlib.sha256(self.content).hexdigest()[:20]}"'


def mount_files(app: FastAPI, held: Mapping[str, PageFile]) -> None:
    """Adds GET and HEAD of `/`, which is index.html, and of `/page/NAME`; they stand in no OpenAPI document."""
    headers = {name: {**_HEADERS, "ETag": file.etag} for name, file in held.items()}

    async def page(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in held:
            raise HTTPException(404)
        if held[name].etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers[name])
        return Response(held[name].content, media_type=held[name].media_type, headers=headers[name])

    for path in ("/", "/page/{name}"):
        app.add_route(path, page, methods=["GET", "HEAD"], include_in_schema=False)


def folder_files(package: str, folder: str = "page") -> dict[str, PageFile]:
    """Name → file, of all that lie in a package's folder; to be read once, when the app is made."""
    found = {}
    for entry in files(package).joinpath(folder).iterdir():
        if media_type := _TYPES.get(entry.name.rpartition(".")[2]):
            found[entry.name] = PageFile(entry.read_bytes(), media_type)
    return found


def json_file(told: Mapping[str, Any]) -> PageFile:
    """What a page must know before it asks anything."""
    return PageFile(json.dumps(told).encode(), _TYPES["json"])
