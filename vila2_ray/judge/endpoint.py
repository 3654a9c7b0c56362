"""A model behind an endpoint that speaks OpenAI's chat completions, through OpenAI's own client, as judge.

Retries with growing waits, and Retry-After, are the client's. What an endpoint does not take (a schema for the answer,
a temperature, the older name of max_tokens) is left out from then on. Nothing is judged by the text of an error.
"""

from __future__ import annotations

import base64
import os
import time
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from vila2_ray.config import JudgeConfig
from vila2_ray.errors import ConfigError, StageFailed, Vila2Error, in_one_line
from vila2_ray.judge.verdict import Ask, Unreadable

if TYPE_CHECKING:
    import openai
    from openai.types.chat import ChatCompletion

_Read = TypeVar("_Read")
_LEFT_OUT = {"response_format", "temperature"}
"""Parameters that an endpoint need not take."""
_SHOWN_CHARS = 300


class Refused(Vila2Error, ValueError):
    """The endpoint will not answer this one question; others it may."""

    judged: Judged[Any] | None = None
    """What an answer before, which could not be read, took."""


class Unanswered(StageFailed):
    """No answer came to a question, after all retries; `is_away`: nobody is there at all."""

    judged: Judged[Any] | None = None
    """What an answer before, which could not be read, took."""

    def __init__(self, told: str, is_away: bool = False) -> None:
        super().__init__(told)
        self.told, self.is_away = told, is_away

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.told, self.is_away)


@dataclass(frozen=True)
class Judged(Generic[_Read]):
    """What came of one question, and what it took."""

    read: _Read | None
    """None: `problem` says why."""
    problem: str
    input_tokens: int
    output_tokens: int
    seconds: float


@dataclass
class _Took:
    input_tokens: int = 0
    output_tokens: int = 0

    def add(self, usage: Any) -> None:
        """What an answer's `usage` tells, as far as it does."""
        counts = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
        inputs, outputs = (count if isinstance(count, int) else 0 for count in counts)
        self.input_tokens, self.output_tokens = self.input_tokens + inputs, self.output_tokens + outputs


class Endpoint:
    """Asked by coroutines of one event loop; an asynchronous context. Opens nothing before it is asked."""

    def __init__(self, config: JudgeConfig) -> None:
        """Raises ConfigError where no endpoint is named, or its key's variable is not set."""
        self.config = config
        self._key = _key(config)
        self._model = config.model
        self._left_out: set[str] = set()
        self._client: openai.AsyncOpenAI | None = None

    async def __aenter__(self) -> Endpoint:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.close()

    async def name(self) -> str:
        """The model that judges: as configured, or the endpoint's only one.

        Where the endpoint tells which checkpoint that is, as `vila2 serve` does, the checkpoint: vlm-1@0123456789ab.
        Raises ConfigError (key, model), Unanswered.
        """
        found = await self._models()
        if not self._model:
            if len(found) != 1:
                known = ", ".join(sorted(found)[:20]) or "none"
                raise ConfigError("judge.model", "", f"name which of the endpoint's models judges: {known}")
            [self._model] = found
        told = getattr(found.get(self._model), "model_extra", None) or {}
        digest, root = told.get("digest"), told.get("root")
        return f"{root}@{digest[:12]}" if isinstance(digest, str) and isinstance(root, str) else self._model

    async def judge(self, ask: Ask[_Read], picture: tuple[bytes, str] | None = None) -> Judged[_Read]:
        """Ask about a picture (bytes and media type), or about words alone. `name` must have been asked before.

        An answer that cannot be read is asked for once more; then that is the problem. Raises Refused, ConfigError
        (key, model) and Unanswered.
        """
        took, began, told, read = _Took(), time.monotonic(), "", None
        for text in (ask.text, ask.again):
            try:
                said = await self._say(_messages(text, picture), ask.schema, took)
            except (Refused, Unanswered) as error:
                seconds = time.monotonic() - began
                error.judged = Judged(None, told, took.input_tokens, took.output_tokens, seconds)
                raise
            try:
                read, told = ask.read(_text(said)), ""
                break
            except Unreadable as error:
                told = f"the answer {error}"
        return Judged(read, told, took.input_tokens, took.output_tokens, time.monotonic() - began)

    async def _models(self) -> dict[str, Any]:
        """Those that the endpoint tells of; some tell of none, and answer all the same."""
        import openai

        try:
            return {model.id: model async for model in self._opened().models.list()}
        except openai.APIConnectionError as error:
            raise self._unanswered(error) from error
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise self._final(error) from error
        except (openai.APIError, ValueError, TypeError, AttributeError):  # the last ones: what it says is no list
            return {}

    async def _say(self, messages: list[Any], schema: dict[str, Any], took: _Took) -> ChatCompletion:
        """One answer, with as much of what is asked as the endpoint takes."""
        import openai
        from openai.types.chat import ChatCompletion

        left_out = set(self._left_out)
        while True:
            try:
                said: ChatCompletion = await self._opened().chat.completions.create(
                    model=self._model, messages=messages, **self._parameters(schema, left_out)
                )
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                conceded = _conceded(error, left_out)
                if conceded is None:
                    raise Refused(self._told(error)) from error
                left_out.add(conceded)
                continue
            except openai.APIConnectionError as error:
                raise self._unanswered(error) from error
            except openai.APIError as error:
                raise self._final(error) from error
            except ValueError as error:
                raise self._stranger() from error
            if not isinstance(said, ChatCompletion):  # the client hands on whatever is no JSON
                raise self._stranger()
            self._left_out |= left_out  # it answers without
            took.add(said.usage)
            return said

    def _parameters(self, schema: dict[str, Any], left_out: set[str]) -> dict[str, Any]:
        form = {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": schema}}
        length = "max_completion_tokens" if "max_tokens" in left_out else "max_tokens"
        told = {"response_format": form, "temperature": self.config.temperature, length: self.config.max_tokens}
        return {name: value for name, value in told.items() if name not in left_out}

    def _opened(self) -> openai.AsyncOpenAI:
        import openai

        if self._client is None:
            settings = self.config
            self._client = openai.AsyncOpenAI(
                base_url=settings.endpoint,
                api_key=self._key or "none",  # the client wants one; what needs none does not look
                timeout=settings.timeout_seconds,
                max_retries=settings.max_retries,
            )
        return self._client

    def _unanswered(self, error: openai.APIError) -> Unanswered:
        import openai

        late = isinstance(error, openai.APITimeoutError)
        why = f"took more than judge.timeout_seconds={self.config.timeout_seconds:g}" if late else "cannot be reached"
        told = "" if late else f" ({in_one_line(error.__cause__ or error)})"
        tries = f", {self.config.max_retries + 1} times" if self.config.max_retries else ""
        return Unanswered(f"the judge's endpoint {self.config.endpoint} {why}{tries}{told}", is_away=not late)

    def _stranger(self) -> Unanswered:
        return Unanswered(
            f"what {self.config.endpoint} answers is no chat completion: is the address right, with its /v1?"
        )

    def _final(self, error: openai.APIError) -> Vila2Error:
        """What an error means that no other form of the question would mend."""
        import openai

        settings = self.config
        if isinstance(error, (openai.AuthenticationError, openai.PermissionDeniedError)):
            remedy = "the endpoint refuses the key in that environment variable"
            if not settings.key:
                remedy = "the endpoint wants a key: name the environment variable that holds it"
            return ConfigError("judge.key", settings.key, remedy)
        if isinstance(error, openai.NotFoundError):
            remedy = f"the endpoint knows no such model or route ({self._told(error)}); see {settings.endpoint}/models"
            if not settings.endpoint.rstrip("/").endswith("/v1"):
                remedy += "; does the address lack its /v1?"
            return ConfigError("judge.model", settings.model, remedy)
        status = f" {error.status_code}" if isinstance(error, openai.APIStatusError) else ""
        tries = f" after {settings.max_retries + 1} times" if settings.max_retries else ""
        told = f"the judge's endpoint {settings.endpoint} says{status} to a question{tries}: {self._told(error)}"
        return Unanswered(told)

    def _told(self, error: openai.APIError) -> str:
        """What an endpoint says of a request, shortened, never with the key."""
        body = error.body
        told = body.get("message") if isinstance(body, dict) else body
        said = " ".join(str(told or error.message).split())
        return (said.replace(self._key, "…") if self._key else said)[:_SHOWN_CHARS]


def _conceded(error: openai.APIStatusError, left_out: set[str]) -> str | None:
    """What to leave out next; None where nothing is left that would help."""
    if error.param in {*_LEFT_OUT, "max_tokens"} - left_out:
        return error.param
    return "response_format" if "response_format" not in left_out else None


def _messages(text: str, picture: tuple[bytes, str] | None) -> list[Any]:
    """One user's turn, for not every model's template knows a system's."""
    if picture is None:
        return [{"role": "user", "content": text}]
    data, media_type = picture
    url = f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"
    shown = {"type": "image_url", "image_url": {"url": url}}
    return [{"role": "user", "content": [shown, {"type": "text", "text": text}]}]


def _text(said: ChatCompletion) -> str:
    """Raises Unreadable for an answer without an end or without words."""
    choice = said.choices[0] if said.choices else None
    if getattr(choice, "finish_reason", "") == "length":
        raise Unreadable("ended at judge.max_tokens; allow more")
    message = getattr(choice, "message", None)  # servers are strangers: nothing of this is checked yet
    content = getattr(message, "content", None)
    if not isinstance(content, str) or not content.strip():
        raise Unreadable("is a refusal" if getattr(message, "refusal", None) else "has no words")
    return content


def _key(config: JudgeConfig) -> str:
    if not config.endpoint:
        raise ConfigError("judge.endpoint", "", "name what judges, for example http://127.0.0.1:8000/v1")
    if config.key and not os.environ.get(config.key):
        raise ConfigError("judge.key", config.key, "that environment variable is not set; put the API key into it")
    return os.environ[config.key].strip() if config.key else ""
