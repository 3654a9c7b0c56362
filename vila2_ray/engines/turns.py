"""How a question about one image is written for a checkpoint: its own chat template, or LLaVA's plain form."""

from __future__ import annotations

from functools import lru_cache
from typing import Any


@lru_cache(maxsize=4096)
def user_turn(processor: Any, prompt: str) -> str:
    """The user's turn as the folder's chat template writes it; image first, as every family does."""
    if not (processor.chat_template or processor.tokenizer.chat_template):
        return f"{processor.image_token}\n{prompt}"
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
    return str(processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False))


def adds_special_tokens(processor: Any, turn: str) -> bool:
    """Whether the tokenizer must still add its first token: false where the template has written it."""
    return not turn.startswith(processor.tokenizer.bos_token or "\0")


@lru_cache(maxsize=4096)
def turn_token_ids(processor: Any, prompt: str) -> tuple[int, ...]:
    """Token ids of `user_turn`, the image as the single placeholder that the template writes."""
    turn = user_turn(processor, prompt)
    ids = processor.tokenizer(turn, add_special_tokens=adds_special_tokens(processor, turn))["input_ids"]
    return tuple(ids)
