"""POST /v1/captions: many pictures, one prompt, each with its caption and who wrote it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vila2_ray.captions.boxes import named_boxes
from vila2_ray.engines.live import Turn
from vila2_ray.serve.answering import Answer, Asked, Delta, Event, Whole, answers, collected, opened, while_connected
from vila2_ray.serve.asking import addressee, ask, check_length
from vila2_ray.serve.captionforms import read
from vila2_ray.serve.describing import CAPTIONS
from vila2_ray.serve.endpoint import Endpoint, checkpoint_header, id_of
from vila2_ray.serve.intake import Picture
from vila2_ray.serve.pictures import taken
from vila2_ray.serve.problems import Problem
from vila2_ray.serve.sse import EventStream, encode
from vila2_ray.serve.wording import wording

GRACE_SECONDS = 10.0
"""For the last events of a stream to be read, after the answers' own time."""


def routes(endpoint: Endpoint) -> APIRouter:
    router = APIRouter(tags=["captions"])

    @router.post("/v1/captions", **CAPTIONS)
    async def captions(request: Request) -> Response:
        """Captions of one or several pictures. One bad picture fails only itself, unless all are bad."""
        captioner, settings, name = endpoint.captioner, endpoint.settings, id_of(request)
        wishes, given = await read(request, settings)
        to = addressee(captioner.standing(), wishes.model, wishes.specialist)
        turns = (Turn("user", wording(endpoint.prompts, wishes.prompt, wishes.question, to.skill)),)
        check_length(turns, settings, "question")
        sampling = wishes.wish().sampling(settings)
        pictures = await taken(given, settings)
        for picture in pictures:
            if isinstance(picture, Picture):
                endpoint.metrics.image(picture.media_type)
        question = partial(
            ask, to=to, turns=turns, sampling=sampling, seed=wishes.seed, request_id=name, streamed=wishes.stream,
            with_logprobs=wishes.logprobs,
        )  # fmt: skip
        asked = [
            one if isinstance(one, Problem) else Asked(question(one, index=index), to)
            for index, one in enumerate(pictures)
        ]
        events = answers(captioner, asked, settings.timeout_seconds, endpoint.metrics)
        if wishes.stream:
            seen, by = await while_connected(request.receive, opened(events))
            return EventStream(
                seen,
                events,
                partial(_written, pictures, name),
                last=encode({}, "done"),
                seconds=settings.timeout_seconds + GRACE_SECONDS,
                headers=checkpoint_header(by),
            )
        found = await while_connected(request.receive, collected(events, len(asked)))
        whole = [caption(index, pictures[index], one, name) for index, one in enumerate(found)]
        by = next(one.by for one in found if isinstance(one, Answer))
        body = {"id": name, "created": int(time.time()), "captions": whole}
        return JSONResponse(body, headers=checkpoint_header(by))

    return router


def caption(index: int, picture: Picture | Problem, ended: Answer | Problem, request_id: str) -> dict[str, Any]:
    """A caption as answers show it; of a picture that failed, with its problem and no text."""
    size: dict[str, int | None] = {"width": None, "height": None}
    if isinstance(picture, Picture):
        size = {"width": picture.width, "height": picture.height}
    if isinstance(ended, Problem):
        nothing = ("finish_reason", "usage", "mean_logprob", "min_logprob", "checkpoint", "timings")
        return {
            "index": index, "text": "", "boxes": [], **size, **dict.fromkeys(nothing), "error": ended.body(request_id)
        }  # fmt: skip
    return {
        "index": index,
        "text": ended.text,
        "boxes": [{"phrase": named.name, "box": list(named.box)} for named in named_boxes(ended.text)],
        **size,
        "finish_reason": ended.finish_reason,
        "usage": {"prompt_tokens": ended.num_prompt_tokens, "completion_tokens": ended.num_output_tokens},
        "mean_logprob": _finite(ended.mean_logprob),
        "min_logprob": _finite(ended.min_logprob),
        "checkpoint": {
            "name": ended.by.name,
            "model": ended.by.model,
            "digest": ended.by.digest,
            "skill": ended.by.skill,
            "engine": ended.by.engine,
        },
        "timings": {
            "waiting_ms": round(ended.waiting_seconds * 1000, 2),
            "total_ms": round(ended.total_seconds * 1000, 2),
        },
        "error": None,
    }


def _written(pictures: Sequence[Picture | Problem], request_id: str, event: Event) -> bytes:
    """As a server-sent event."""
    if isinstance(event, Delta):
        return encode({"index": event.index, "text": event.text}, "piece")
    if isinstance(event, Whole):
        return encode(caption(event.index, pictures[event.index], event.answer, request_id), "caption")
    return encode({"index": event.index, **event.problem.body(request_id)}, "error")


def _finite(value: float | None) -> float | None:
    """JSON knows no NaN."""
    return value if value is not None and math.isfinite(value) else None
