"""Documents, conversations about several images and text alone, as items; and which of their tokens are learned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vila2_ray.captions.fuse import IMAGE_PLACE, Turn
from vila2_ray.corpus.samples import Sample
from vila2_ray.errors import Reason, SampleError
from vila2_ray.model.loading import load_processor
from vila2_ray.recipes.tiny import BASE_FOLDER
from vila2_ray.train.interleaved import SampleItems, conversation_items, document_items, text_items
from vila2_ray.train.source import ImageKey, Tokens
from vila2_ray.train.tokenize import ItemTokenizer

P = IMAGE_PLACE


def sample(extra: dict[str, Any], pictures: tuple[int, ...] = (), problem: Reason | None = Reason.DOCUMENT) -> Sample:
    said = SampleError(problem, "") if problem else None
    return Sample("s", "0", 3, "3", None, "", extra, problem=said, pictures=dict.fromkeys(pictures))


def said(made: SampleItems) -> str:
    ((turn,),) = made.items
    assert turn.role == "assistant"
    return turn.text


def talk(*texts: str) -> dict[str, Any]:
    return {"conversations": [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]}


def test_a_document_alternates_as_its_lists_do() -> None:
    fields = {"images": ["u0", None, "u2", None], "texts": [None, "a cat", None, "a dog"]}
    for numbers in ((0, 2), (0, 1)):  # numbered by place, or one after the other
        made = document_items(sample(fields, numbers))
        assert said(made) == f"{P}a cat{P}a dog"
        assert made.images == numbers


def test_an_image_that_is_missing_leaves_the_documents_text_together() -> None:
    fields = {"images": ["u0", None, "u2", None], "texts": [None, "a cat", None, "a dog"]}
    made = document_items(sample(fields, (0,)))
    assert (said(made), made.images) == (f"{P}a cat\n\na dog", (0,))
    assert (said(document_items(sample(fields))), document_items(sample(fields)).images) == ("a cat\n\na dog", ())


def test_an_image_stands_before_the_text_of_the_same_place_and_none_at_the_end() -> None:
    made = document_items(sample({"images": ["u", "v", "w"], "texts": ["a cat", "a dog", None]}, (0, 1, 2)))
    assert (said(made), made.images) == (f"{P}a cat{P}a dog", (0, 1))


def test_mmc4_puts_images_before_the_text_that_they_match() -> None:
    infos = [{"matched_text_index": 2}, {"matched_text_index": 0}, {"matched_text_index": 9}, "broken"]
    made = document_items(sample({"text_list": ["one", "two", "three"], "image_info": infos}, (0, 1, 2)))
    assert (said(made), made.images) == (f"{P}one two{P}three", (1, 0))


@pytest.mark.parametrize("fields", [{}, {"texts": "x"}, {"texts": []}, {"texts": [None, " … "]}, {"text_list": [3]}])
def test_a_document_without_text_has_no_items(fields: dict[str, Any]) -> None:
    assert document_items(sample(fields, (0,))).items == []


def test_several_images_of_a_conversation_stand_where_they_are_marked() -> None:
    made = conversation_items(sample(talk("<image>\nand <image> ?", "cats", "now <image>", "a dog"), (0, 1, 2)))
    assert made.images == (0, 1, 2)
    (turns,) = made.items
    assert [turn.text for turn in turns] == [f"{P}\nand {P} ?", "cats", f"now {P}", "a dog"]


def test_a_conversation_that_marks_another_number_of_images_is_left_out() -> None:
    assert conversation_items(sample(talk("<image> and <image> ?", "x"), (0, 1, 2))).items == []
    assert conversation_items(sample(talk("<image> ?", "x"), (), Reason.NO_IMAGE)).items == []
    assert conversation_items(sample(talk("<image> and <image> ?", "x"), (), None)).images == (0,)  # said twice


def test_text_is_the_field_or_the_alt_text() -> None:
    assert said(text_items(sample({"text": f" a {P} cat "}, problem=Reason.NO_IMAGE))) == "a   cat"
    told = sample({}, problem=None)
    told.alt_text = "a dog"
    assert said(text_items(told)) == "a dog"
    assert text_items(sample({"text": "x"}, problem=Reason.SHARD_TRUNCATED)).items == []


@pytest.fixture(scope="module")
def processor() -> Any:
    return load_processor(BASE_FOLDER)


def learned(processor: Any, made: Tokens) -> str:
    return processor.tokenizer.decode(made.input_ids[made.supervised]).replace(" </s>", "</s>")


def keys(*numbers: int) -> list[ImageKey]:
    return [ImageKey("s", "0", 3, number) for number in numbers]


def test_all_text_of_a_document_is_learned_and_no_image(processor: Any) -> None:
    tokenizer = ItemTokenizer(processor, 128)
    made = document_items(sample({"images": ["u", None, "v"], "texts": ["a cat", "a dog", "two"]}, (0, 2)))
    (tokens,) = tokenizer([(made.items[0], keys(*made.images))])
    assert learned(processor, tokens) == "a cat a dog two</s>"
    assert tokens.images == tuple(keys(0, 2))
    image = tokens.input_ids == tokenizer.image_token_id
    assert image.sum() == 32
    assert not (image & tokens.supervised).any()
    assert image[1:17].all()
    assert (~tokens.supervised).sum() == 33  # the images and the first token


def test_text_alone_is_learned_whole(processor: Any) -> None:
    made = text_items(sample({"text": "a cat is there"}, problem=Reason.NO_IMAGE))
    (tokens,) = ItemTokenizer(processor, 128)([(made.items[0], [])])
    assert learned(processor, tokens) == "a cat is there</s>"
    assert tokens.images == ()


def test_only_answers_of_a_conversation_about_several_images_are_learned(processor: Any) -> None:
    tokenizer = ItemTokenizer(processor, 128)
    made = conversation_items(sample(talk("<image> and <image> ?", "a cat", "<image> ?", "a dog"), (0, 1, 2)))
    (tokens,) = tokenizer([(made.items[0], keys(*made.images))])
    assert learned(processor, tokens) == "a cat</s> a dog</s>"
    starts = np.flatnonzero(np.diff((tokens.input_ids == tokenizer.image_token_id).astype(int)) == 1) + 1
    assert len(starts) == len(tokens.images) == 3
    first_answer = int(np.flatnonzero(tokens.supervised)[0])
    assert starts[1] < first_answer < starts[2]


def test_a_document_is_cut_before_an_image_that_does_not_fit(processor: Any) -> None:
    item = (Turn("assistant", f"{P}a cat{P}a dog"),)
    (tokens,) = ItemTokenizer(processor, 30)([(item, keys(0, 1))])
    assert len(tokens.input_ids) == 1 + 16 + 2
    assert tokens.images == tuple(keys(0))
    assert tokens.num_truncated == 16 + 3
