"""OpenAI's routes, for its clients: chat completions about one image, and who can be asked."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vila2_ray.errors import UnknownModel
from vila2_ray.serve.answering import (
    Answer,
    Asked,
    Delta,
    Event,
    Failed,
    answers,
    collected,
    opened,
    while_connected,
)
from vila2_ray.serve.asking import addressee, ask, check_length, names
from vila2_ray.serve.captioner import Served, Standing
from vila2_ray.serve.captionforms import parsed
from vila2_ray.serve.captions import GRACE_SECONDS
from vila2_ray.serve.chatforms import ChatRequest, Conversation
from vila2_ray.serve.describing import CHAT, MODEL, MODELS
from vila2_ray.serve.endpoint import Endpoint, checkpoint_header, id_of
from vila2_ray.serve.pictures import at_url
from vila2_ray.serve.problems import openai_error
from vila2_ray.serve.sse import EventStream, encode
from vila2_ray.serve.wording import wording

_DONE = b"data: [DONE]\n\n"


def routes(endpoint: Endpoint) -> APIRouter:
    router = APIRouter(tags=["OpenAI's clients"])

    @router.post("/v1/chat/completions", **CHAT)
    async def chat_completions(request: Request) -> Response:
        """The next turn of a conversation about one image, which the model is shown with the first user's words."""
        captioner, settings, name = endpoint.captioner, endpoint.settings, id_of(request)
        chat = parsed(ChatRequest, await request.body())
        chat.check_supported()
        to = addressee(captioner.standing(), chat.model)
        conversation = Conversation(chat.messages, wording(endpoint.prompts, None, None, to.skill))
        check_length(conversation.turns, settings, "messages")
        sampling, stops, streamed = chat.wish().sampling(settings), chat.stops(), bool(chat.stream)
        picture = await at_url(conversation.image_url, settings, conversation.image_field)
        endpoint.metrics.image(picture.media_type)
        # With stop texts the pieces are wanted as they come, to end the engine's work at the first one.
        question = ask(
            picture,
            to,
            conversation.turns,
            sampling,
            chat.wish().seed,
            request_id=name,
            streamed=streamed or bool(stops),
        )
        events = answers(captioner, [Asked(question, to, stops)], settings.timeout_seconds, endpoint.metrics)
        if not streamed:
            (answer,) = await while_connected(request.receive, collected(events, 1))
            assert isinstance(answer, Answer)  # `collected` raises what failed alone
            return JSONResponse(_completion(name, answer), headers=checkpoint_header(answer.by))
        seen, by = await while_connected(request.receive, opened(events))
        options = chat.stream_options
        chunks = _Chunks(name, by, with_usage=bool(options and options.include_usage))
        return EventStream(
            seen,
            events,
            chunks.written,
            first=chunks.chunk({"role": "assistant", "content": "", "refusal": None}),
            last=_DONE,
            seconds=settings.timeout_seconds + GRACE_SECONDS,
            headers=checkpoint_header(by),
        )

    @router.get("/v1/models", **MODELS)
    async def models() -> Response:
        """Every name that is served, and the checkpoint that answers for it now."""
        shown = [_model(standing) for standing in endpoint.captioner.standing()]
        return JSONResponse({"object": "list", "data": shown})

    @router.get("/v1/models/{model}", **MODEL)
    async def model(model: str) -> Response:
        """One of them, by its served name or, while it is what is served, by its name in the campaign."""
        standings = endpoint.captioner.standing()
        found = addressee(standings, model).name
        for standing in standings:
            if standing.name == found:
                return JSONResponse(_model(standing))
        raise UnknownModel(model, names(standings))

    return router


def _completion(name: str, answer: Answer) -> dict[str, Any]:
    message = {"role": "assistant", "content": answer.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}
    return {**_head(name, "chat.completion", answer.by), "choices": [choice], "usage": _usage(answer)}


class _Chunks:
    """One stream's chunks: a role, texts, a finish reason, the usage where it is asked for."""

    def __init__(self, name: str, by: Served, with_usage: bool) -> None:
        self.head = _head(name, "chat.completion.chunk", by) | ({"usage": None} if with_usage else {})
        self.with_usage = with_usage

    def chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return encode({**self.head, "choices": [choice]})

    def written(self, event: Event) -> bytes:
        if isinstance(event, Delta):
            return self.chunk({"content": event.text})
        if isinstance(event, Failed):
            return encode(openai_error(event.problem))
        last = self.chunk({}, event.answer.finish_reason)
        usage = encode({**self.head, "choices": [], "usage": _usage(event.answer)}) if self.with_usage else b""
        return last + usage


def _head(name: str, kind: str, by: Served) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{name}",
        "object": kind,
        "created": int(time.time()),
        "model": by.name,
        "system_fingerprint": by.label,
    }


def _usage(answer: Answer) -> dict[str, int]:
    prompt, completion = answer.num_prompt_tokens, answer.num_output_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _model(standing: Standing) -> dict[str, Any]:
    by = standing.served
    shown = {"id": standing.name, "object": "model", "created": int(by.since) if by else 0, "owned_by": "vila2"}
    named = {"root": by.model, "digest": by.digest, "skill": by.skill} if by else {}
    return {**shown, "state": standing.state, **named}
