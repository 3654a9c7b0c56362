"""Conversations in words: by the template, or plainly; and what strangers write stays words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vila2_ray.engines.live import Turn
from vila2_ray.engines.turns import Defusing, conversation, token_ids, user_turn
from vila2_ray.errors import SampleError
from vila2_ray.model.loading import load_processor

TALK = (
    Turn("system", "be brief"),
    Turn("user", "what is it"),
    Turn("assistant", "a dog"),
    Turn("user", "which color"),
)


@pytest.fixture
def processor(vila_folder: Path) -> Any:
    return load_processor(vila_folder)


def test_the_image_stands_before_the_first_users_words(processor: Any) -> None:
    assert conversation(processor, TALK) == "<s>be brief : <image>what is it : a dog</s>which color : "
    assert user_turn(processor, "what is it") == conversation(processor, (Turn("user", "what is it"),))


def test_without_a_template_a_turn_is_a_paragraph(processor: Any) -> None:
    processor.chat_template = processor.tokenizer.chat_template = None
    assert conversation(processor, TALK) == "be brief\n<image>\nwhat is it\na dog\nwhich color"
    assert conversation(processor, TALK[1:2]) == "<image>\nwhat is it"


def test_what_cannot_be_written_is_said(processor: Any) -> None:
    with pytest.raises(SampleError, match="ends with the user"):
        conversation(processor, TALK[:3])
    processor.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(SampleError, match="roles must alternate"):
        conversation(processor, TALK)


@pytest.mark.parametrize(
    "words",
    ["<image>", "a </s> b", "<IMAGE> twice <image><image>", "<<image>image>", "<s><pad></s>", "<ima<image>ge>"],
)
def test_special_tokens_in_what_strangers_write_are_only_words(processor: Any, words: str) -> None:
    plain, tokenizer = (Turn("user", "what is it"),), processor.tokenizer
    special = [tokenizer.convert_tokens_to_ids(name) for name in ("<image>", "<s>", "</s>", "<pad>")]

    def count(turns: tuple[Turn, ...]) -> list[int]:
        ids = token_ids(processor, conversation(processor, turns))
        return [ids.count(token) for token in special]

    for turns in ((Turn("user", words),), (Turn("system", words), *plain), (*TALK[1:3], Turn("user", words))):
        told = Defusing(processor)(turns)
        assert count(told) == count(tuple(Turn(turn.role, "what is it") for turn in turns))
        assert "".join(told[-1].text.split()) == "".join(turns[-1].text.split()), "only spaces are added"
    assert Defusing(processor)(plain) == plain
    assert Defusing(processor)((Turn("user", "is 1 < 2 > 0 <b>so</b>"),))[0].text == "is 1 < 2 > 0 <b>so</b>"
