"""The tiny tokenizer: the world's words are tokens, everything else in ASCII still comes through, digits are single."""

from __future__ import annotations

import random
import string

import pytest

from vila2_ray.recipes.tiny import world
from vila2_ray.recipes.tiny.tokenizer import build


@pytest.fixture(scope="module")
def tokenizer():
    return build()


def test_texts_of_the_world_come_back_word_for_word(tokenizer):
    rng = random.Random(2)
    for _ in range(200):
        truth = world.layout(rng)
        asked = world.questions(truth, rng)
        texts = [
            world.careful_caption(truth),
            world.alt_text(truth, rng),
            *(question["question"] for question in asked),
        ]
        for text in (*texts, *world.TINY_PROMPTS.values()):
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.decode(ids) == text
        tokens = tokenizer.tokenize(f"{texts[0]} {texts[1]}")
        assert not [token for token in tokens if token.startswith("##") and not token[2:].isdigit()]


def test_any_ascii_can_be_encoded_and_every_digit_is_a_token(tokenizer):
    text = string.printable + " a user's OWN text: http://x.y/z?q=1&r=[12,345]"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids).replace(" ", "") == "".join(text.lower().split())
    assert tokenizer.convert_ids_to_tokens(tokenizer("[41, 120]")["input_ids"]) == (
        ["[", "4", "##1", ",", "1", "##2", "##0", "]"]
    )


def test_the_chat_template(tokenizer):
    image, text = {"type": "image"}, {"type": "text", "text": "what?"}
    user, answer = {"role": "user", "content": [image, text]}, {"role": "assistant", "content": "a cat."}
    asked = tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
    assert asked == "<s><image>what? : "
    whole = tokenizer.apply_chat_template([user, answer, {"role": "user", "content": "why?"}], tokenize=False)
    assert whole == "<s><image>what? : a cat.</s>why? : "
    assert tokenizer(asked)["input_ids"] == tokenizer(whole)["input_ids"][: len(tokenizer(asked)["input_ids"])]


def test_it_is_the_same_every_time(tokenizer):
    assert build().get_vocab() == tokenizer.get_vocab()
    assert [tokenizer.convert_tokens_to_ids(token) for token in ("<pad>", "<s>", "</s>", "<unk>", "<image>")] == [
        *range(5)
    ]
