"""The endpoint as a FastAPI app around any captioner, in one process with its engine or on a cluster. Knows no Ray."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from vila2_ray import __version__
from vila2_ray.captions.prompts import Prompts
from vila2_ray.config.serving import ServeConfig
from vila2_ray.serve import captions, catalogue, openai, problems, rim
from vila2_ray.serve.captioner import Captioner
from vila2_ray.serve.describing import HEALTH, READY, describe
from vila2_ray.serve.endpoint import Endpoint
from vila2_ray.serve.keys import Keys
from vila2_ray.serve.metrics import Metrics, add_metrics
from vila2_ray.serve.page import mount_page

_PAGE_DATA = ("/page/limits.json",)
"""What the page reads before it has a key."""
_CLIENT_GONE = 499
"""Nobody reads this answer; the log and the metrics tell it from others."""


def create_app(
    captioner: Captioner,
    settings: ServeConfig,
    prompts: Prompts,
    keys: Keys | None = None,
    names_answers: bool = True,
) -> FastAPI:
    """The app, which starts and closes the captioner with its own life. With `keys`, all but probes and page need one.
    `names_answers`: false behind a proxy that adds X-Request-Id to answers itself.

    Whether it may be reached without keys is `safety.check_exposure`'s to say, before it listens.
    """
    endpoint = Endpoint(captioner, settings, prompts, Metrics(captioner.standing))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await captioner.start()
        try:
            yield
        finally:
            await captioner.close()

    app = FastAPI(
        title="vila2-ray",
        version=__version__,
        description="Captions of pictures by the checkpoints that a campaign promotes.",
        lifespan=lifespan,
        docs_url="/docs" if settings.docs else None,
        redoc_url=None,
        openapi_url="/openapi.json" if settings.docs else None,
    )
    app.include_router(captions.routes(endpoint))
    app.include_router(openai.routes(endpoint))
    app.include_router(catalogue.routes(endpoint))
    add_metrics(app, endpoint.metrics)
    _add_probes(app, captioner)
    if settings.docs:
        mount_page(app, settings)
    describe(app, settings, needs_key=keys is not None)
    problems.install(app)
    app.add_exception_handler(ClientDisconnect, _nobody)
    open_paths = _PAGE_DATA if settings.docs else ()
    rim.install(app, settings, keys, endpoint.metrics, open_paths, names_answers)
    return app


def _add_probes(app: FastAPI, captioner: Captioner) -> None:
    @app.get("/healthz", tags=["operation"], **HEALTH)
    async def healthz() -> Response:
        """200 as long as the process answers at all."""
        return JSONResponse({"status": "ok"})

    @app.get("/readyz", tags=["operation"], **READY)
    async def readyz() -> Response:
        """200 once the model that questions get by default serves. Why others do not, /v1/standing tells."""
        standing = captioner.standing()
        ready = bool(standing) and standing[0].state == "serving"
        body = {"ready": ready, "models": [{"name": one.name, "state": one.state} for one in standing]}
        return JSONResponse(body, 200 if ready else 503)


async def _nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=_CLIENT_GONE)
