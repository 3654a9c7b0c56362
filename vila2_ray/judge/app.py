"""The page for people who judge, and what it asks of: sessions, pairs, pictures, votes. Knows no Ray.

Nothing that leaves here tells which layer a caption is of: there are only left and right.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vila2_ray.corpus.corpus import Corpus
from vila2_ray.errors import SampleError
from vila2_ray.judge.desks import Ballot, Better, Desk, Desks, Side, is_person
from vila2_ray.judge.gallery import Gallery
from vila2_ray.judge.study import Pair, Study
from vila2_ray.serve import problems
from vila2_ray.serve.bodies import Bodies
from vila2_ray.serve.gate import Gate
from vila2_ray.serve.heldfiles import PageFile, folder_files, json_file, mount_files
from vila2_ray.serve.hiding import hide_keys
from vila2_ray.serve.keys import Keys
from vila2_ray.serve.metrics import Metrics
from vila2_ray.serve.problems import Problem
from vila2_ray.serve.rim import Rim

MAX_EDIT_CHARS = 8000
MAX_BODY_BYTES = 128 * 1024
TOLD_AT_ONCE = 500
"""Pairs that a session names; a page asks again when it is through with them."""
_SHARED = ("api.js", "base.css", "boxes.js", "dom.js", "frame.js", "icon.svg", "key.js", "theme.js")
"""Files of the endpoint's page that this one uses."""
_NAME = r"^[A-Za-z0-9-]{1,64}$"
_DAY_MS = 86_400_000


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds a NUL")
    return text.strip()


Edit = Annotated[str, Field(max_length=MAX_EDIT_CHARS), AfterValidator(_without_nul)]


class BallotForm(BaseModel):
    """A vote as the page sends it."""

    model_config = ConfigDict(extra="forbid")

    pair: str = Field(pattern=_NAME)
    ballot: str = Field(pattern=_NAME)
    answers: dict[str, Better] = Field(max_length=16)
    edits: dict[Side, Edit] = {}
    milliseconds: float = Field(default=0.0, ge=0, le=_DAY_MS, allow_inf_nan=False)


def create_judge_app(
    study: Study, open_corpus: Callable[[str], Corpus], keys: Keys | None = None, left_out: Collection[str] = ()
) -> FastAPI:
    """The app of one study. With `keys`, a rater is who holds one; without, whoever says a name.

    `left_out`: pairs that nobody is to see any more.

    Whether it may be reached without keys is `safety.check_reach`'s to say, before it listens.
    Raises ConfigError where there is no such study.
    """
    desks, gallery = Desks(study, left_out), Gallery(open_corpus)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    def desk_of(request: Request) -> Desk:
        return desks.of(_rater(request, keys is not None))

    @app.get("/healthz")
    async def healthz() -> Response:
        return JSONResponse({"status": "ok"})

    @app.get("/v1/session")
    def session(request: Request) -> dict[str, Any]:
        at = desk_of(request)
        todo = at.todo()
        return {
            "study": desks.study_id,
            "rater": at.rater,
            "criteria": [{"name": one.name, "asks": one.asks, "hint": one.hint} for one in desks.criteria],
            "total": at.total,
            "done": at.num_done(),
            "todo": todo[:TOLD_AT_ONCE],
            "passed": [] if todo else at.passed_over()[:TOLD_AT_ONCE],
            "max_chars": MAX_EDIT_CHARS,
        }

    @app.get("/v1/pairs/{name}")
    def pair(name: str, request: Request) -> dict[str, Any]:
        at = desk_of(request)
        wanted = _pair(at, name)
        return {"id": name, **at.sides(wanted), "said": at.said(wanted)}

    @app.get("/v1/pairs/{name}/picture")
    def picture(name: str, request: Request) -> Response:
        wanted = _pair(desk_of(request), name)
        try:
            data, media_type = gallery.picture(wanted)
        except SampleError as error:
            detail = "it is not there, or cannot be decoded"
            raise Problem(422, "no-picture", "No picture", detail) from error
        # The name is one rater's own, so that nobody else's picture is ever taken for it.
        return Response(data, media_type=media_type, headers={"Cache-Control": "private, max-age=86400, immutable"})

    @app.post("/v1/votes")
    def vote(form: BallotForm, request: Request) -> dict[str, Any]:
        at = desk_of(request)
        _pair(at, form.pair)
        ballot = Ballot(form.pair, form.ballot, form.answers, form.edits, form.milliseconds / 1000)
        try:
            at.cast(ballot, gallery.problem)
        except ValueError as error:
            raise Problem(422, "not-answered", "Not every criterion is answered", str(error)) from error
        return {"done": at.num_done(), "total": at.total}

    held = page_files() | {"entry.json": json_file({"needs": "name" if keys is None else "key"})}
    mount_files(app, held)
    problems.install(app)
    hide_keys()
    # The last one added is the outermost.
    app.add_middleware(Bodies, max_bytes=MAX_BODY_BYTES)
    app.add_middleware(Gate, keys=keys, open_paths=("/", *(f"/page/{name}" for name in held)))
    app.add_middleware(Rim, metrics=Metrics())
    return app


def page_files() -> dict[str, PageFile]:
    """Name → file of the page, with those that it shares."""
    shared = folder_files("vila2_ray.serve")
    return {name: shared[name] for name in _SHARED} | folder_files("vila2_ray.judge")


def _pair(at: Desk, name: str) -> Pair:
    if (found := at.pair(name)) is None:
        raise Problem(404, "no-such-pair", "No such pair", "this study does not ask it of this rater")
    return found


def _rater(request: Request, has_key: bool) -> str:
    name = str(request.scope["state"]["key_name"]) if has_key else request.headers.get("x-rater", "")
    if not is_person(name):
        detail = "X-Rater: 1 to 64 letters, digits and . _ @ : + -, a letter or digit first"
        raise Problem(422, "no-rater", "Nobody can be called so", detail)
    return name
