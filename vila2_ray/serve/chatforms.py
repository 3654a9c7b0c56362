"""What OpenAI's clients send, as far as a model that sees one image can answer it; the rest is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from vila2_ray.engines.live import Role, Turn
from vila2_ray.serve.asking import Wish
from vila2_ray.serve.wording import refused

_LENIENT = ConfigDict(extra="allow", protected_namespaces=())

_WITHOUT_EFFECT = frozenset(
    ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls")
)
"""Known fields that change no answer here."""
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
}
"""Known fields that are not supported, with the values that ask for nothing."""
_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class ImageUrl(BaseModel):
    """Where a picture is."""

    model_config = _LENIENT

    url: str = Field(description="A data: URL; http(s) only where the endpoint allows it.")


class Part(BaseModel):
    """A piece of a message."""

    model_config = _LENIENT

    type: str = Field(description="text or image_url.")
    text: str | None = None
    image_url: ImageUrl | None = None


class Message(BaseModel):
    """What one side says."""

    model_config = _LENIENT

    role: str = Field(description="system, developer, user or assistant.")
    content: str | list[Part] | None = None


class StreamOptions(BaseModel):
    """What a stream holds beside its text."""

    model_config = _LENIENT

    include_usage: bool | None = None


class ChatRequest(BaseModel):
    """A conversation about one image."""

    model_config = _LENIENT

    model: str = Field(description="See /v1/models.")
    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1, description="The same as max_tokens, which it overrides.")
    min_tokens: int | None = Field(None, ge=0, description="Not OpenAI's: the answer does not end before these.")
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False, description="0, the default, is greedy.")
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def wish(self) -> Wish:
        max_tokens = self.max_completion_tokens or self.max_tokens
        seed = None if self.seed is None else self.seed % 2**31
        return Wish(max_tokens, self.min_tokens, self.temperature, self.top_p, seed)

    def stops(self) -> tuple[str, ...]:
        """Raises Problem for more than four, or an empty one."""
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if len(stops) > 4 or not all(stops):
            raise refused("stop", self.stop, "give up to four texts, none of them empty")
        return stops

    def check_supported(self) -> None:
        """Raises Problem for what would change the answer and is not done here."""
        for field, value in (self.model_extra or {}).items():
            if value is None or field in _WITHOUT_EFFECT or any(value == one for one in _NEUTRAL.get(field, ())):
                continue
            known = field in _NEUTRAL or field in ("audio", "prediction", "web_search_options", "reasoning_effort")
            raise refused(field, value, "is not supported here; leave it out" if known else "is no field of this route")


class Conversation:
    """The turns of a request, and where its one image is."""

    def __init__(self, messages: list[Message], default_text: str) -> None:
        """`default_text` stands for the words of a first user who shows the image and says nothing.

        Raises Problem for what is no conversation about one image.
        """
        images: list[tuple[str, str]] = []
        said: list[tuple[Role, str]] = []
        for number, message in enumerate(messages):
            field = f"messages[{number}]"
            role = _ROLES.get(message.role)
            if role is None:
                raise refused(f"{field}.role", message.role, f"take one of {', '.join(_ROLES)}")
            text = "\n".join(_texts(message, role, f"{field}.content", images))
            if said and said[-1][0] == role:  # templates take turns: what one side says in a row is one turn
                said[-1] = (role, "\n".join(filter(None, (said[-1][1], text))))
            else:
                said.append((role, text))
        if len(images) != 1:
            remedy = "an image is needed, exactly one in a conversation: a user's part of type image_url"
            raise refused("messages", f"{len(images)} images", remedy)
        self.image_url, self.image_field = images[0]
        self.turns = tuple(Turn(role, text) for role, text in _in_order(said, default_text))


def _texts(message: Message, role: Role, field: str, images: list[tuple[str, str]]) -> Iterator[str]:
    """The words of a message; its images are added to `images`."""
    if message.content is None:
        raise refused(field, None, "say something: tool calls and refusals are not supported here")
    if isinstance(message.content, str):
        yield message.content
        return
    for number, part in enumerate(message.content):
        at = f"{field}[{number}]"
        if part.type == "text" and part.text is not None:
            yield part.text
        elif part.type == "image_url" and part.image_url is not None:
            if role != "user":
                raise refused(f"{at}.type", part.type, "only users show images")
            images.append((part.image_url.url, f"{at}.image_url.url"))
        else:
            raise refused(f"{at}.type", part.type, "take text or image_url, with the field of that name")


def _in_order(said: list[tuple[Role, str]], default_text: str) -> list[tuple[Role, str]]:
    spoken = said[1:] if said[0][0] == "system" else said
    if any(role == "system" for role, _ in spoken):
        raise refused("messages", "system", "system messages come before all others")
    if not spoken or spoken[0][0] != "user" or spoken[-1][0] != "user":
        raise refused("messages", spoken[-1][0] if spoken else "system", "a user speaks first and last")
    first, text = len(said) - len(spoken), spoken[0][1]
    if not text.strip():
        said[first] = ("user", default_text)
    if not said[-1][1].strip():
        raise refused("messages", "", "the last user says nothing")
    return said
