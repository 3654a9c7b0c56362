"""What went wrong, as clients are told it: problem JSON (RFC 9457), and OpenAI's form where OpenAI's clients ask.

Nothing here tells internals: what we did not foresee is a 500 with the request's id, and the log has the rest.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from vila2_ray.errors import EngineDied, NotReady, Overloaded, Reason, SampleError, UnknownModel, Vila2Error
from vila2_ray.serve.logs import SERVE

MEDIA_TYPE = "application/problem+json"
_LOG = logging.getLogger(SERVE)
_OPENAI_ROUTES = ("/v1/chat/", "/v1/models")
_RETRY_SECONDS = 5
"""After which to ask again while a checkpoint loads or an engine is replaced."""
_MAX_ERRORS = 8
"""Of a request's wrong fields, that are told at once."""

_MAX_SHOWN = 60
"""Characters of a wrong value."""

_BY_REASON = {
    Reason.IMAGE_TYPE: (415, "image-type", "Not a picture that can be read"),
    Reason.IMAGE_TOO_LARGE: (413, "image-too-large", "Too many pixels"),
    Reason.IMAGE_UNREADABLE: (422, "image-unreadable", "The picture is broken"),
    Reason.NO_IMAGE: (422, "no-image", "No picture"),
    Reason.ENGINE_DIED: (503, "engine-died", "The engine died"),
}
_REFUSED = (422, "not-answerable", "The model cannot answer this")


class Problem(Exception):
    """An answer that is an error: `slug` is stable, for programs; `title` says it in words; `detail` is of this one."""

    def __init__(
        self,
        status: int,
        slug: str,
        title: str,
        detail: str,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{status} {slug}: {detail}")
        self.status, self.slug, self.title, self.detail = status, slug, title, detail
        self.headers, self.extra = dict(headers or {}), dict(extra or {})

    def body(self, instance: str = "") -> dict[str, Any]:
        """The JSON object; `instance` is the request's id."""
        told: dict[str, Any] = {"type": f"/problems/{self.slug}", "title": self.title, "status": self.status}
        told |= {"detail": self.detail} | ({"instance": instance} if instance else {})
        return {**self.extra, **told}

    def about(self, field: str) -> Problem:
        """The same, said of a field of the request, unless it names one already."""
        if "field" in self.extra or not field:
            return self
        extra = {**self.extra, "field": field}
        return Problem(self.status, self.slug, self.title, f"{field}: {self.detail}", self.headers, extra)


def problem_of(error: BaseException) -> Problem:
    """What a client is told of any error; Ray's wrappers are opened, internals are not told."""
    while isinstance(cause := getattr(error, "cause", None), BaseException):
        error = cause
    if isinstance(error, Problem):
        return error
    if isinstance(error, RequestValidationError):
        return _invalid(error.errors())
    if isinstance(error, HTTPException):
        return _of_http(error)
    if isinstance(error, SampleError):
        status, slug, title = _BY_REASON.get(error.reason, _REFUSED)
        headers = _retry_after(_RETRY_SECONDS) if status == 503 else None
        return Problem(status, slug, title, _without_addresses(error.detail), headers, {"reason": error.reason.value})
    if isinstance(error, UnknownModel):
        told = UnknownModel(shortened(error.name), error.known)
        return Problem(404, "unknown-model", "Not served", f"model = {told}", extra={"known": list(error.known)})
    if isinstance(error, Overloaded):
        return Problem(429, "overloaded", "Too many wait", error.detail, _retry_after(error.retry_after_seconds))
    if isinstance(error, NotReady):
        return Problem(503, "not-ready", "Not ready", str(error), _retry_after(_RETRY_SECONDS))
    if isinstance(error, EngineDied):
        detail = "the engine died while it answered, and is being replaced; ask again"
        return Problem(503, "engine-died", "The engine died", detail, _retry_after(_RETRY_SECONDS))
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return Problem(504, "too-slow", "Not answered in time", "ask for fewer tokens, or again when fewer ask")
    if isinstance(error, ClientDisconnect):
        return Problem(400, "body-cut-off", "The body ended early", "the connection closed before the body was whole")
    return Problem(
        500, "internal", "Something broke here", "not your fault; the log tells more under this request's id"
    )


def shortened(text: str) -> str:
    """Of what a client wrote, as much as an answer repeats."""
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def request_id(scope: Mapping[str, Any]) -> str:
    """As logs and X-Request-Id name this request. Clients may choose it, so it need not be unique."""
    return str(scope.get("state", {}).get("request_id", ""))


def answer(error: BaseException, scope: Mapping[str, Any]) -> Response:
    """The response to a request that ended in `error`, in the form that its route speaks. Logs what nobody foresaw."""
    problem, name = problem_of(error), request_id(scope)
    if problem.slug == "internal":
        _LOG.error("request %s failed", name or "without id", exc_info=error)
    if str(scope.get("path", "")).startswith(_OPENAI_ROUTES):
        return _json(openai_status(problem), openai_error(problem), "application/json", problem.headers)
    return _json(problem.status, problem.body(name), MEDIA_TYPE, problem.headers)


def openai_error(problem: Problem) -> dict[str, Any]:
    """OpenAI's error object."""
    kind = "server_error" if problem.status >= 500 else "invalid_request_error"
    code = {401: "invalid_api_key", 429: "rate_limit_exceeded"}.get(problem.status, problem.slug.replace("-", "_"))
    code = "model_not_found" if problem.slug == "unknown-model" else code
    kind = "rate_limit_error" if problem.status == 429 else kind
    param = problem.extra.get("field", "model" if problem.slug == "unknown-model" else None)
    return {"error": {"message": problem.detail, "type": kind, "param": param, "code": code}}


def openai_status(problem: Problem) -> int:
    """OpenAI says 400 to whatever is wrong with a request's contents."""
    return 400 if problem.status in (415, 422) else problem.status


def install(app: FastAPI) -> None:
    """Make `app` answer its errors by `answer`."""

    async def handle(request: Request, error: Exception) -> Response:
        return answer(error, request.scope)

    kinds = (Problem, RequestValidationError, HTTPException, Vila2Error, TimeoutError, asyncio.TimeoutError, Exception)
    for kind in kinds:
        app.add_exception_handler(kind, handle)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """How OpenAPI describes these statuses: for a route's `responses`."""
    text, whole = {"type": "string"}, {"type": "integer"}
    schema = {
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {"type": text, "title": text, "status": whole, "detail": text, "instance": text, "field": text},
    }
    content = {MEDIA_TYPE: {"schema": schema}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


def _json(status: int, body: dict[str, Any], media_type: str, headers: Mapping[str, str]) -> Response:
    # Escaped to ASCII: what a client sent may hold half a surrogate pair, which is no UTF-8.
    return Response(json.dumps(body).encode("ascii"), status, dict(headers), media_type)


def _invalid(errors: Sequence[Any]) -> Problem:
    """Of FastAPI's list of wrong fields."""
    if any(error.get("type") == "json_invalid" for error in errors):
        said = str(errors[0].get("ctx", {}).get("error", "malformed"))
        detail = f"the body is not JSON: {said} at character {errors[0]['loc'][-1]}"
        return Problem(400, "body-malformed", "The body cannot be read", detail)
    told = [_Wrong.of(error) for error in errors[:_MAX_ERRORS]]
    extra: dict[str, Any] = {"errors": [{"field": one.field, "problem": one.remedy} for one in told]}
    if len(told) == 1:
        extra["field"] = told[0].field
    detail = "; ".join(f"{one.field}{one.value}: {one.remedy}" for one in told)
    return Problem(422, "invalid-request", "A field is wrong", detail, extra=extra)


class _Wrong(NamedTuple):
    """One field of a request."""

    field: str
    value: str
    """` = …`, or nothing where it is missing or long."""
    remedy: str

    @classmethod
    def of(cls, error: Mapping[str, Any]) -> _Wrong:
        """Of an error of pydantic's."""
        value, shown = error.get("input"), ""
        if error.get("type") != "missing" and isinstance(value, (str, int, float, bool)):
            shown = repr(value[:_MAX_SHOWN] if isinstance(value, str) else value)
            shown = f" = {shown if len(shown) <= _MAX_SHOWN else shown[:_MAX_SHOWN] + '…'}"
        return cls(_field(error.get("loc", ())), shown, str(error.get("msg", "is wrong")))


def _field(loc: Sequence[Any]) -> str:
    """`images[0].data` of ("body", "images", 0, "data")."""
    where = [part for part in loc[1:] if not (isinstance(part, str) and part.startswith("function-"))] or loc
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in where)
    return shortened("".join(parts).lstrip("."))


def _of_http(error: HTTPException) -> Problem:
    status = error.status_code
    try:
        title = HTTPStatus(status).phrase
    except ValueError:
        title = "Refused"
    detail = str(error.detail) or title
    if detail == title:  # Starlette's own: it knows no more
        known = {404: "there is nothing at this address; /docs lists what there is"}
        known[405] = "this address takes other methods; see Allow"
        detail = known.get(status, title)
    return Problem(status, title.lower().replace(" ", "-").replace("'", ""), title, detail, error.headers)


def _retry_after(seconds: float) -> dict[str, str]:
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


def _without_addresses(detail: str) -> str:
    return re.sub(r"<[^<>]* at 0x[0-9a-fA-F]+>", "it", detail)
