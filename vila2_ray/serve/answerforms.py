"""What answers look like, for the API's description. Answers themselves are written as they are, unchecked."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_NAMES = ConfigDict(protected_namespaces=())


class NamedBox(BaseModel):
    """A box that the caption tells."""

    phrase: str = Field(description="What it is a box of, as far as the words before it say.")
    box: list[int] = Field(min_length=4, max_length=4, description="x1, y1, x2, y2 in thousandths, 0–999.")


class Tokens(BaseModel):
    prompt_tokens: int
    completion_tokens: int


class Checkpoint(BaseModel):
    """Who wrote it."""

    model_config = _NAMES

    name: str = Field(description="By which it was asked.")
    model: str = Field(description="Its name in the campaign.")
    digest: str = Field(description="sha256 of its weights.")
    skill: str
    engine: str


class Timings(BaseModel):
    waiting_ms: float = Field(description="Until the first piece of text.")
    total_ms: float


class ProblemObject(BaseModel):
    """RFC 9457."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: str | None = Field(None, description="The request's id.")


class Caption(BaseModel):
    """One picture's caption, or its problem and nothing else."""

    index: int
    text: str
    boxes: list[NamedBox]
    width: int | None
    height: int | None
    finish_reason: str | None = Field(description="stop: the model was done. length: max_tokens cut it.")
    usage: Tokens | None
    mean_logprob: float | None = Field(description="Of its tokens; null unless asked for by logprobs.")
    min_logprob: float | None
    checkpoint: Checkpoint | None
    timings: Timings | None
    error: ProblemObject | None


class CaptionsAnswer(BaseModel):
    id: str
    created: int
    captions: list[Caption]


class ChatMessage(BaseModel):
    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(BaseModel):
    index: int
    message: ChatMessage
    logprobs: None
    finish_reason: str


class ChatUsage(Tokens):
    total_tokens: int


class ChatAnswer(BaseModel):
    """As OpenAI writes it."""

    model_config = _NAMES

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str = Field(description="Which checkpoint wrote it: its name and digest.")
    choices: list[ChatChoice]
    usage: ChatUsage


class OpenAIError(BaseModel):
    error: dict[str, Any] = Field(description="message, type, param and code.")


class Model(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    state: str
    root: str | None = Field(None, description="The name in the campaign of the checkpoint that answers now.")
    digest: str | None = None
    skill: str | None = None


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[Model]


class Prompt(BaseModel):
    id: str
    text: str
    skill: str


class PromptList(BaseModel):
    prompts: list[Prompt]
    default: str


class Stood(BaseModel):
    """How a served name stands."""

    model_config = _NAMES

    name: str
    state: Literal["serving", "loading", "failed"]
    detail: str
    model: str
    digest: str
    skill: str
    engine: str
    since: float | None


class StandingList(BaseModel):
    models: list[Stood]


class Readiness(BaseModel):
    name: str
    state: Literal["serving", "loading", "failed"]


class Ready(BaseModel):
    ready: bool
    models: list[Readiness]


class Health(BaseModel):
    status: Literal["ok"]
