"""How a conversation about one image is written for a checkpoint: its own chat template, or LLaVA's plain form."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from vila2_ray.engines.live import Turn
from vila2_ray.errors import Reason, SampleError


def conversation(processor: Any, turns: Sequence[Turn]) -> str:
    """`turns` as the folder's chat template writes them, up to where the model speaks; the image stands before the
    first user's words, as every family has it. Without a template, a turn is a paragraph.

    Raises SampleError for what the template refuses, for example two turns of one side.
    """
    if not turns or turns[-1].role != "user":
        raise SampleError(Reason.ENGINE_ERROR, "a conversation ends with the user's turn")
    shown = next(number for number, turn in enumerate(turns) if turn.role == "user")
    if not (processor.chat_template or processor.tokenizer.chat_template):
        texts = [turn.text for turn in turns]
        return "\n".join([*texts[:shown], processor.image_token, *texts[shown:]])
    messages = [
        {"role": turn.role, "content": [{"type": "image"}] * (number == shown) + [{"type": "text", "text": turn.text}]}
        for number, turn in enumerate(turns)
    ]
    from jinja2 import TemplateError

    try:
        return str(processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
    except TemplateError as error:
        problem = " ".join(str(error).split())[:200]
        raise SampleError(Reason.ENGINE_ERROR, f"the chat template refuses this conversation: {problem}") from error


@lru_cache(maxsize=4096)
def user_turn(processor: Any, prompt: str) -> str:
    """The conversation that is one question."""
    return conversation(processor, (Turn("user", prompt),))


def adds_special_tokens(processor: Any, turn: str) -> bool:
    """Whether the tokenizer must still add its first token: false where the template has written it."""
    return not turn.startswith(processor.tokenizer.bos_token or "\0")


def token_ids(processor: Any, written: str) -> tuple[int, ...]:
    """Of a conversation as `conversation` wrote it, the image as the single placeholder that the template writes."""
    ids = processor.tokenizer(written, add_special_tokens=adds_special_tokens(processor, written))["input_ids"]
    return tuple(ids)


@lru_cache(maxsize=4096)
def turn_token_ids(processor: Any, prompt: str) -> tuple[int, ...]:
    """Token ids of `user_turn`."""
    return token_ids(processor, user_turn(processor, prompt))


class Defusing:
    """Takes from strangers' words the power to be anything but words.

    A tokenizer reads `<image>` or `</s>` as the token of that name wherever it stands; a space behind the first
    character makes it the text that it is. For prompts that our own configuration holds there is no need.
    """

    def __init__(self, processor: Any) -> None:
        names = {added.content for added in processor.tokenizer.added_tokens_decoder.values() if added.special}
        names |= set(processor.tokenizer.all_special_tokens)
        names |= {value for name in _PLACEHOLDERS if isinstance(value := getattr(processor, name, None), str)}
        breakable = sorted((name for name in names if len(name.strip()) > 1), key=len, reverse=True)
        self._names = re.compile("|".join(map(re.escape, breakable)) or r"(?!)", re.IGNORECASE)

    def __call__(self, turns: Sequence[Turn]) -> tuple[Turn, ...]:
        return tuple(replace(turn, text=self._defuse(turn.text)) for turn in turns)

    def _defuse(self, text: str) -> str:
        while self._names.search(text):  # a name may hold another one; each round leaves fewer
            text = self._names.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
        return text


_PLACEHOLDERS = ("image_token", "video_token", "audio_token", "boi_token", "eoi_token")
"""Attributes by which processors name what stands for a picture or a sound."""
