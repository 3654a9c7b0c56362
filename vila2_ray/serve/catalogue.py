"""What can be asked, and of whom: for the page and for people who look around."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from vila2_ray.serve.captioner import Standing
from vila2_ray.serve.describing import PROMPTS, STANDING
from vila2_ray.serve.endpoint import Endpoint
from vila2_ray.serve.wording import default_prompt, listing


def routes(endpoint: Endpoint) -> APIRouter:
    router = APIRouter(tags=["catalogue"])

    @router.get("/v1/prompts", **PROMPTS)
    async def prompts() -> Response:
        """Every prompt by id, with its words and the skill that it belongs to."""
        known = endpoint.prompts
        return JSONResponse({"prompts": listing(known), "default": default_prompt(known)})

    @router.get("/v1/standing", **STANDING)
    async def standing() -> Response:
        """Who is served or is to be, what answers now, and what is being loaded."""
        return JSONResponse({"models": standings(endpoint.captioner.standing())})

    return router


def standings(found: tuple[Standing, ...]) -> list[dict[str, Any]]:
    """How the served names stand, as answers show it."""
    return [
        {
            "name": one.name,
            "state": one.state,
            "detail": one.detail,
            "model": one.served.model if one.served else "",
            "digest": one.served.digest if one.served else "",
            "skill": one.served.skill if one.served else "",
            "engine": one.served.engine if one.served else "",
            "since": one.served.since if one.served else None,
        }
        for one in found
    ]
