"""Pieces are whole characters, and in sum the text of all tokens, whatever the tokenizer."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from vila2_ray.engines.spelling import Spelling, whole_text
from vila2_ray.recipes.tiny.tokenizer import build

TEXT = "Ein Café mit 3 Gästen — 東京の夜 🌃🌉 don't stop, said O'Neill . And the naïve reader's façade isn't it ? " * 4


def bytes_pairs() -> PreTrainedTokenizerFast:
    """Bytes, so that a character may be several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"])
    tokenizer.train_from_iterator([TEXT], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def tidying() -> PreTrainedTokenizerFast:
    """Changes what it has said when an apostrophe follows."""
    tokenizer = build()
    tokenizer.clean_up_tokenization_spaces = True
    return tokenizer


@pytest.mark.parametrize("make", [bytes_pairs, build, tidying])
def test_pieces_are_whole_and_add_up(make: Any) -> None:
    tokenizer, draw = make(), random.Random(7)
    written = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    anything = [draw.randrange(len(tokenizer)) for _ in range(300)]  # as random weights say it, special tokens and all
    for ids in (written, anything, written[:3], [], tokenizer("  spaces  ", add_special_tokens=False)["input_ids"]):
        for sizes in ((1,), (1, 2, 5), (64,)):
            spelling, pieces, start = Spelling(tokenizer), [], 0
            while start < len(ids):
                stop = start + draw.choice(sizes)
                pieces.append(spelling.add(ids[start:stop]))
                start = stop
            pieces.append(spelling.finish())
            assert "".join(pieces) == whole_text(tokenizer, ids)
            if ids is written:
                assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
                assert len([piece for piece in pieces if piece]) > len(ids) / 10 / max(sizes), "it streams"


def test_a_long_answer_costs_no_more_at_its_end() -> None:
    tokenizer, decoded = build(), []

    class Counting:
        clean_up_tokenization_spaces = False

        def decode(self, ids: list[int], **settings: Any) -> str:
            decoded.append(len(ids))
            return str(tokenizer.decode(ids, **settings))

    spelling = Spelling(Counting())
    for token in tokenizer(TEXT * 4, add_special_tokens=False)["input_ids"]:
        spelling.add([token])
    assert max(decoded) < 40
