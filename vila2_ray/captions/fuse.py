"""How alt text and captions become training items: VILA² (arXiv 2407.17453) trains on both, concatenated.

`captions` are the kept ones, in the order of their layers and variants. Rules:

alt_text    the alt text alone
recaption   an item for each caption; the alt text where there is none
concat      an item for each caption, the alt text said before it as a sentence of its own; each part alone where the
            other is missing. Several captions are not joined: a variant is another description of the same things, and
            a text that holds two of them teaches to say everything twice
mixed       an item for the alt text, and one for each caption

A sample with neither gives no item. Alt text without a letter, digit or pictogram counts as none.

What specialists say of a sample comes as turns, question and answer. Joined, they go on from the sample's first item,
the one with the alt text, in the order given; apart, each is an item of its own.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from vila2_ray.captions.words import ends_sentence, has_content, sentences, words
from vila2_ray.config import Rule
from vila2_ray.errors import ConfigError

IMAGE_PLACE = "\ufffc"
"""Where an image stands in a turn's text, as Unicode writes it: the object replacement character."""


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation about images. Assistant turns are trained on, user turns are not."""

    role: Literal["user", "assistant"]
    text: str


Item = tuple[Turn, ...]
"""What one training item says. Plain text is an assistant turn with no question before it; a conversation may follow.
Images stand where an IMAGE_PLACE is; without one, before everything.
"""


def fuse(
    alt_text: str,
    captions: Sequence[tuple[str, str]],
    rule: Rule,
    prompted: bool = False,
    brief_prompt: str = "",
    turns: Sequence[tuple[str, str]] = (),
    apart: bool = False,
) -> list[Item]:
    """Training items of a sample from its alt text, its (prompt text, caption) pairs and its (question, answer) turns.

    With `prompted`, captions answer their own prompt and alt text alone answers `brief_prompt`; a concatenated text
    answers the caption's. `turns` go on from the first item, as VILA² has it, or are one of their own where there is
    none; `apart`, each is. Raises ConfigError for an unknown rule, and for `prompted` without a prompt to ask.
    """
    if rule not in get_args(Rule):
        raise ConfigError("fuse.rule", rule, f"must be one of {', '.join(get_args(Rule))}")
    alt = " ".join(alt_text.split()) if has_content(alt_text) else ""
    kept = [(prompt, caption.strip()) for prompt, caption in captions if has_content(caption)]
    alone = [(brief_prompt, alt)] if alt else []
    if rule == "alt_text":
        texts = alone
    elif rule == "mixed":
        texts = alone + kept
    elif rule == "recaption":
        texts = kept or alone
    else:
        texts = [(prompt, join_texts(alt, caption)) for prompt, caption in kept] or alone
    items = [_item(prompt, text, prompted) for prompt, text in texts]
    exchanges = [(Turn("user", question), Turn("assistant", answer)) for question, answer in turns]
    if apart or not exchanges:
        return [*items, *exchanges]
    told: Item = tuple(turn for exchange in exchanges for turn in exchange)
    return [items[0] + told, *items[1:]] if items else [told]


def join_texts(first: str, second: str) -> str:
    """Both as one text; the first is ended as a sentence where it is not one yet. Either may be empty."""
    first, second = first.strip(), second.strip()
    if not first or not second:
        return first or second
    if not ends_sentence(first):
        first = first.rstrip(" ,;:|/\\-–—_·•，、；：")
        first += "。" if _is_cjk(first[-1:]) else "."
    return first + ("" if first.endswith(("。", "！", "？")) else " ") + second


def cut_at_repeated_sentence(text: str) -> str:
    """The text before the first sentence that it has already said, in whatever case and punctuation.

    The one clean-up that VILA² describes. Text that repeats nothing comes back unchanged.
    """
    said: set[tuple[str, ...]] = set()
    kept: list[str] = []
    for sentence in sentences(text):
        content = tuple(words(sentence))
        if content and content in said:
            return _before(text, kept)
        said.add(content)
        kept.append(sentence)
    return text


def _before(text: str, kept: Sequence[str]) -> str:
    """The beginning of `text` that holds the `kept` sentences, spacing as it was."""
    end = 0
    for sentence in kept:
        end = text.index(sentence, end) + len(sentence)
    return text[:end].strip()


def _item(prompt: str, text: str, prompted: bool) -> Item:
    if not prompted:
        return (Turn("assistant", text),)
    if not prompt.strip():
        raise ConfigError("fuse.prompted", prompted, "needs the text of the prompt that each part answers")
    return Turn("user", prompt), Turn("assistant", text)


def _is_cjk(char: str) -> bool:
    return bool(char) and unicodedata.name(char, "").startswith(("CJK", "HIRAGANA", "KATAKANA"))
