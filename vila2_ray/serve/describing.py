"""The API's description: what routes take and answer, with examples, and the bounds that this endpoint is set to."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from vila2_ray.config.serving import ServeConfig
from vila2_ray.serve import answerforms as forms
from vila2_ray.serve.captionforms import CaptionsRequest, Wishes
from vila2_ray.serve.chatforms import ChatRequest
from vila2_ray.serve.gate import ALWAYS_OPEN
from vila2_ray.serve.problems import responses

_DOT = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAM0lEQVR42mP4QCJgGAgNJ2w0kBEBDWiqMfUwEFSNpoeBGNXIeoaX"
    "BpJDiZx4ICemqZ/4AG19MPtY1n8gAAAAAElFTkSuQmCC"
)
"""A PNG of 16 × 16 pixels."""
_GATE = (401, 403)
_ASKED = (400, *_GATE, 404, 408, 413, 415, 422, 429, 500, 503, 504)
_CHAT_STATUSES = (400, *_GATE, 404, 408, 413, 429, 500, 503, 504)

_CHECKPOINT = {"name": "promoted", "model": "vlm-1", "digest": "9f86d081884c…", "skill": "", "engine": "vllm 0.29.0"}
_CAPTION = {
    "index": 0,
    "text": "A cat [120,80,560,910] on a red sofa.",
    "boxes": [{"phrase": "cat", "box": [120, 80, 560, 910]}],
    "width": 640,
    "height": 480,
    "finish_reason": "stop",
    "usage": {"prompt_tokens": 212, "completion_tokens": 24},
    "mean_logprob": -0.41,
    "min_logprob": -2.9,
    "checkpoint": _CHECKPOINT,
    "timings": {"waiting_ms": 31.2, "total_ms": 118.5},
    "error": None,
}
_CAPTIONS = {"id": "9b2e…", "created": 1763900000, "captions": [_CAPTION]}
_EVENTS = ("piece", "caption", "error", "done")
_STREAM = (
    'event: piece\ndata: {"index":0,"text":"A cat"}\n\n'
    'event: caption\ndata: {"index":0,"text":"A cat on a sofa.",…}\n\n'
    "event: done\ndata: {}\n\n"
)
_CHAT = {
    "id": "chatcmpl-9b2e…",
    "object": "chat.completion",
    "created": 1763900000,
    "model": "promoted",
    "system_fingerprint": "vlm-1@9f86d081884c",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "A cat on a red sofa.", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 212, "completion_tokens": 8, "total_tokens": 220},
}
_CHUNKS = 'data: {"id":"chatcmpl-9b2e…","choices":[{"index":0,"delta":{"content":"A cat"},…}],…}\n\ndata: [DONE]\n\n'
_MODEL = {
    "id": "promoted",
    "object": "model",
    "created": 1763900000,
    "owned_by": "vila2",
    "state": "serving",
    "root": "vlm-1",
    "digest": "9f86d081884c…",
    "skill": "",
}
_STANDING = {**_CHECKPOINT, "state": "serving", "detail": "", "since": 1763900000.0}
_PROMPT = {"id": "brief", "text": "Say in one short sentence what this picture shows.", "skill": ""}


class CaptionsForm(Wishes):
    """A request for captions, as a form."""

    image: list[bytes] = Field(min_length=1, description="One file or several, each in a field of this name.")


def _answer(
    model: type[BaseModel], example: Any, stream: str = "", events: tuple[str, ...] = ()
) -> dict[int | str, dict[str, Any]]:
    content: dict[str, Any] = {"application/json": {"example": example}}
    if stream:
        properties: dict[str, Any] = {"data": {"type": "string", "contentMediaType": "application/json"}}
        if events:
            properties["event"] = {"enum": list(events)}
        one = {"type": "object", "properties": properties, "required": list(properties)}
        content["text/event-stream"] = {"itemSchema": one, "example": stream}
    return {200: {"description": "OK", "model": model, "content": content}}


def _openai(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Errors as OpenAI's clients read them."""
    told = responses(*statuses)
    return {status: {"description": one["description"], "model": forms.OpenAIError} for status, one in told.items()}


def _body(content: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": content}}


def _schema(model: type[BaseModel], **examples: Any) -> dict[str, Any]:
    shown = {name: {"value": value} for name, value in examples.items()}
    return {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}, "examples": shown}


_ONE = {"images": [{"data": _DOT}]}
CAPTIONS: dict[str, Any] = {
    "summary": "Caption pictures",
    "responses": {**_answer(forms.CaptionsAnswer, _CAPTIONS, _STREAM, _EVENTS), **responses(*_ASKED)},
    "openapi_extra": _body(
        {
            "application/json": _schema(
                CaptionsRequest,
                plain=_ONE,
                prompt={**_ONE, "prompt": "brief", "max_tokens": 64},
                own_words={**_ONE, "question": "What colour is it?", "temperature": 0.7, "seed": 1},
                several_streamed={
                    "images": [{"data": _DOT}, {"url": f"data:image/png;base64,{_DOT}"}],
                    "stream": True,
                },
            ),
            "multipart/form-data": {"schema": {"$ref": "#/components/schemas/CaptionsForm"}},
        }
    ),
}
CHAT: dict[str, Any] = {
    "summary": "Answer in a conversation about an image",
    "responses": {**_answer(forms.ChatAnswer, _CHAT, _CHUNKS), **_openai(*_CHAT_STATUSES)},
    "openapi_extra": _body(
        {
            "application/json": _schema(
                ChatRequest,
                plain={
                    "model": "promoted",
                    "messages": [
                        {
                            "role": "user",
                            "content": [
                                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_DOT}"}},
                                {"type": "text", "text": "What is in this picture?"},
                            ],
                        }
                    ],
                    "max_tokens": 64,
                },
            )
        }
    ),
}
MODELS: dict[str, Any] = {
    "summary": "Who can be asked",
    "responses": {**_answer(forms.ModelList, {"object": "list", "data": [_MODEL]}), **_openai(*_GATE, 500)},
}
MODEL: dict[str, Any] = {
    "summary": "One that can be asked",
    "responses": {**_answer(forms.Model, _MODEL), **_openai(*_GATE, 404, 500)},
}
PROMPTS: dict[str, Any] = {
    "summary": "What can be asked",
    "responses": {
        **_answer(forms.PromptList, {"prompts": [_PROMPT], "default": "brief"}),
        **responses(*_GATE, 500),
    },
}
STANDING: dict[str, Any] = {
    "summary": "Who is served",
    "responses": {
        **_answer(forms.StandingList, {"models": [_STANDING]}),
        **responses(*_GATE, 500),
    },
}
HEALTH: dict[str, Any] = {
    "summary": "Whether the process answers",
    "responses": {**_answer(forms.Health, {"status": "ok"}), **responses(403, 500)},
}
READY: dict[str, Any] = {
    "summary": "Whether captions can be had",
    "responses": {
        **_answer(forms.Ready, {"ready": True, "models": [{"name": "promoted", "state": "serving"}]}),
        503: {"description": "The first model does not serve yet", "model": forms.Ready},
        **responses(403, 500),
    },
}


def describe(app: FastAPI, settings: ServeConfig, needs_key: bool) -> None:
    """Make the app's OpenAPI tell of the bodies that its routes read themselves, of bounds and of keys."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(plain(), settings, needs_key)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _complete(described: dict[str, Any], settings: ServeConfig, needs_key: bool) -> None:
    bodies = [(model, "validation") for model in (CaptionsRequest, CaptionsForm, ChatRequest)]
    _, made = models_json_schema(bodies, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    components = described.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    schemas.update(made["$defs"])
    for name, fields in (
        ("CaptionsRequest", ("max_tokens", "min_tokens")),
        ("CaptionsForm", ("max_tokens", "min_tokens")),
        ("ChatRequest", ("max_tokens", "max_completion_tokens", "min_tokens")),
    ):
        for field in fields:
            schemas[name]["properties"][field]["anyOf"][0]["maximum"] = settings.max_tokens
    schemas["CaptionsRequest"]["properties"]["images"]["maxItems"] = settings.max_images
    schemas["CaptionsForm"]["properties"]["image"]["maxItems"] = settings.max_images
    if needs_key:
        components["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "header": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
        }
        described["security"] = [{"bearer": []}, {"header": []}]
        for path in ALWAYS_OPEN:
            for operation in described["paths"].get(path, {}).values():
                operation["security"] = []
