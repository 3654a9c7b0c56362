"""Flags that keep a caption out of training text. No flag: KEPT. Any flag: LEFT OUT, and the alt text stays.

Flags are opinions about what would be trained on: where `cut_at_repeated_sentence` is on, length, repetition and
endings are judged after the cut, so that a caption that only ends in a loop keeps its good beginning. Of a caption that
a person has edited they judge the edit, by its words alone: how sure the model was of others is nothing against it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

import numpy as np
import pyarrow as pa

from vila2_ray.captions.fuse import cut_at_repeated_sentence
from vila2_ray.captions.words import contains, ends_sentence, has_content, ngrams, sentences, words
from vila2_ray.config import FiltersConfig

NGRAM = 4
"""Words of the n-grams that repetition is counted by."""
_ECHO_WORDS = 4
"""So many words in a row from a prompt are no accident."""


class Flag(str, Enum):
    """Why a caption is left out: the closed set that `flags` of a verdict takes its values from."""

    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    REPETITION = "repetition"
    UNFINISHED = "unfinished"
    PROMPT_ECHO = "prompt_echo"
    ALT_TEXT_COPY = "alt_text_copy"
    LOW_MEAN_LOGPROB = "low_mean_logprob"
    LOW_MIN_LOGPROB = "low_min_logprob"
    EDITED_OUT = "edited_out"
    """A person has edited it to nothing."""
    NOT_PICKED = "not_picked"
    """Nothing is wrong with it: `pick` chose another caption of the sample, or its alt text."""


def training_text(caption: str, config: FiltersConfig, edit: str | None = None) -> str:
    """What is trained on of a caption; a person's `edit` as it is."""
    if edit is not None:
        return edit
    return cut_at_repeated_sentence(caption) if config.cut_at_repeated_sentence else caption


def judge(
    rows: Sequence[Mapping[str, Any]],
    alt_texts: Sequence[str],
    prompts: Sequence[str],
    config: FiltersConfig,
    threshold: float | None = None,
) -> list[list[str]]:
    """Flags of each captioned row, in the order of `Flag`; `not_picked` is not among them (see `pick`).

    `rows` need the columns text, finish_reason, mean_logprob and min_logprob of a caption layer, and `edit` where a
    person has edited the caption; alt texts and prompt texts go with them one by one; `threshold` is the layer's
    `layer_threshold`, None where no share of it is to go.
    """
    if not len(rows) == len(alt_texts) == len(prompts):
        raise ValueError(
            f"{len(rows)} captions, {len(alt_texts)} alt texts and {len(prompts)} prompts do not go together"
        )
    border = -math.inf if threshold is None else threshold
    return [
        [flag.value for flag in _flags(row, alt_text, prompt, config, border)]
        for row, alt_text, prompt in zip(rows, alt_texts, prompts, strict=True)
    ]


def layer_threshold(read: Callable[[], Iterable[pa.Array | pa.ChunkedArray | np.ndarray]], share: float) -> float:
    """The minimum token log-probability below which a layer's captions are left out.

    `read` gives the layer's values (float32) piece by piece, and is called twice: whatever the layer's size, two
    histograms of 65,536 counts are all that is held. The ⌊share·n⌋ lowest of n values lie below the threshold, or fewer
    where captions tie at the border: never more than the share is left out. Nulls and NaNs do not count. −inf leaves
    out none, +inf all.
    """
    upper = np.zeros(1 << 16, np.int64)
    for piece in read():
        np.add.at(upper, _ordered_bits(piece) >> 16, 1)
    num_values = int(upper.sum())
    num_dropped = math.floor(share * num_values + 1e-9)  # 0.29 · 100 is 28.999…
    if num_dropped <= 0:
        return -math.inf
    if num_dropped >= num_values:
        return math.inf
    high = int(np.searchsorted(np.cumsum(upper), num_dropped, side="right"))
    lower = np.zeros(1 << 16, np.int64)
    for piece in read():
        bits = _ordered_bits(piece)
        np.add.at(lower, bits[bits >> 16 == high] & 0xFFFF, 1)
    rest = num_dropped - int(upper[:high].sum())
    low = int(np.searchsorted(np.cumsum(lower), rest, side="right"))
    bits = np.array([high << 16 | low], np.uint32)
    return float(np.where(bits >> 31, bits & 0x7FFFFFFF, ~bits).astype(np.uint32).view(np.float32)[0])


def _ordered_bits(values: pa.Array | pa.ChunkedArray | np.ndarray) -> np.ndarray:
    """Unsigned integers that stand in the order of the numbers, without nulls and NaNs."""
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        values = np.asarray(values.drop_null())
    numbers = np.asarray(values, np.float32)
    bits = numbers[~np.isnan(numbers)].view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | 0x80000000)


def repeated_ngram_share(tokens: Sequence[str], n: int = NGRAM) -> float:
    """Share of n-grams that the text has already said, in [0, 1): a text said twice has about one half."""
    found = ngrams(tokens, n)
    return 1 - len(set(found)) / len(found) if found else 0.0


def echoes(text: str, prompt: str) -> bool:
    """Whether a caption gives back its prompt: begins like it, or holds one of its sentences of four words or more."""
    said, asked = words(text), words(prompt)
    if asked and said[:_ECHO_WORDS] == asked[:_ECHO_WORDS]:
        return True
    parts = [words(sentence) for sentence in sentences(prompt)]
    return any(contains(said, part) for part in parts if len(part) >= _ECHO_WORDS)


def copies(text: str, alt_text: str) -> bool:
    """Whether a caption is the alt text or a piece of it, and so says nothing new."""
    return contains(words(alt_text), words(text))


def _flags(row: Mapping[str, Any], alt_text: str, prompt: str, config: FiltersConfig, threshold: float) -> list[Flag]:
    assert row["text"] is not None, "only captioned rows can be judged"
    edit = row.get("edit")
    if edit is not None and not has_content(edit):
        return [Flag.EDITED_OUT]
    text = training_text(row["text"], config, edit)
    said = words(text)
    checks = {
        Flag.TOO_SHORT: len(said) < config.min_words,
        Flag.TOO_LONG: len(said) > config.max_words,
        Flag.REPETITION: repeated_ngram_share(said) > config.max_repeated_ngram_share,
        Flag.PROMPT_ECHO: config.drop_prompt_echo and echoes(text, prompt),
        Flag.ALT_TEXT_COPY: config.drop_alt_text_copy and copies(text, alt_text),
    }
    if edit is None:
        checks |= _of_generation(row, text, config, threshold)
    return [flag for flag in Flag if checks.get(flag)]


def _of_generation(row: Mapping[str, Any], text: str, config: FiltersConfig, threshold: float) -> dict[Flag, bool]:
    """What speaks against a text that a model wrote just so."""
    mean_logprob, min_logprob = row["mean_logprob"], row["min_logprob"]
    return {
        Flag.UNFINISHED: config.drop_unfinished and row["finish_reason"] == "length" and not ends_sentence(text),
        # not (… >= …): a NaN is a broken forward pass, and no reason to keep a caption
        Flag.LOW_MEAN_LOGPROB: mean_logprob is not None and not mean_logprob >= config.min_mean_logprob,
        Flag.LOW_MIN_LOGPROB: min_logprob is not None and min_logprob < threshold,
    }
