"""The page at /: the files in the folder page/, as they are. They need nothing from any other host."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from vila2_ray.config.serving import ServeConfig

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


def mount_page(app: FastAPI, settings: ServeConfig) -> None:
    """Adds GET and HEAD of `/` and `/page/NAME`; both need no API key, and stand in no OpenAPI document.

    The page knows the bounds of `settings`: it warns of pictures beyond them before it sends them.
    """
    held = dict(page_files()) | {"limits.json": limits_file(settings)}
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


def page_files() -> Iterator[tuple[str, PageFile]]:
    """Name and file, all there are; read once, when the app is made."""
    for entry in files("vila2_ray.serve").joinpath("page").iterdir():
        ending = entry.name.rpartition(".")[2]
        if ending in _TYPES:
            yield entry.name, PageFile(entry.read_bytes(), _TYPES[ending])


def limits_file(settings: ServeConfig) -> PageFile:
    """What the page must know of the endpoint's bounds."""
    names = ("max_body_mb", "max_images", "max_pixels", "max_tokens", "default_tokens")
    return PageFile(json.dumps({name: getattr(settings, name) for name in names}).encode(), _TYPES["json"])
