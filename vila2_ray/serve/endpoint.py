"""What every route of the app shares."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from starlette.requests import Request

from vila2_ray.captions.prompts import Prompts
from vila2_ray.config.serving import ServeConfig
from vila2_ray.serve.captioner import Captioner, Served
from vila2_ray.serve.metrics import Metrics
from vila2_ray.serve.problems import request_id

CHECKPOINT_HEADER = "X-Vila2-Checkpoint"


@dataclass(frozen=True)
class Endpoint:
    """Held by the app for its lifetime."""

    captioner: Captioner
    settings: ServeConfig
    prompts: Prompts
    metrics: Metrics


def id_of(request: Request) -> str:
    """As the answer's header names it; a new one where nothing around the app gave any."""
    return request_id(request.scope) or uuid.uuid4().hex


def checkpoint_header(by: Served) -> dict[str, str]:
    """Which checkpoint wrote an answer, for its headers."""
    return {CHECKPOINT_HEADER: by.label}
