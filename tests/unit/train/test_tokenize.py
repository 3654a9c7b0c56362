from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vila2_ray.captions.fuse import Item, Turn
from vila2_ray.errors import CheckpointError
from vila2_ray.model.loading import load_processor
from vila2_ray.recipes.tiny import BASE_FOLDER
from vila2_ray.train.source import ImageKey, Tokens
from vila2_ray.train.tokenize import ItemTokenizer

IMAGE = ImageKey("s", "0", 0)
PICTURE = Image.new("RGB", (96, 96), (200, 30, 90))


@pytest.fixture(scope="module")
def processor():
    return load_processor(BASE_FOLDER)


@pytest.fixture(scope="module")
def tokenizer(processor) -> ItemTokenizer:
    return ItemTokenizer(processor, max_length=128)


def talk(*texts: str) -> Item:
    return tuple(Turn("assistant" if i % 2 else "user", text) for i, text in enumerate(texts))


def learned(processor, made: Tokens) -> str:
    """The supervised tokens as text, without spaces around punctuation."""
    text = processor.tokenizer.decode(made.input_ids[made.supervised])
    return text.replace(" </s>", "</s>")


def test_plain_text_is_learned_whole_with_its_end_and_not_the_image(processor, tokenizer: ItemTokenizer) -> None:
    (made,) = tokenizer([((Turn("assistant", "a picture of a cat"),), [IMAGE])])
    assert learned(processor, made) == "a picture of a cat</s>"
    assert made.input_ids[0] == processor.tokenizer.bos_token_id
    assert (made.input_ids[1:17] == tokenizer.image_token_id).all()
    assert not made.supervised[:17].any()


def test_a_conversation_is_learned_where_the_assistant_speaks(processor, tokenizer: ItemTokenizer) -> None:
    (made,) = tokenizer([(talk("what is there ?", "a cat .", "how many ?", "3"), [IMAGE])])
    assert learned(processor, made) == "a cat.</s> 3</s>"
    rendered = processor.apply_chat_template(
        [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is there ?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "a cat ."}]},
            {"role": "user", "content": [{"type": "text", "text": "how many ?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "3"}]},
        ]
    )
    whole = processor(images=[PICTURE], text=[rendered], add_special_tokens=False)["input_ids"][0]
    assert made.input_ids.tolist() == list(whole)


def test_the_prompt_is_what_an_engine_feeds(processor, tokenizer: ItemTokenizer) -> None:
    prompt = "describe the image in detail."
    (made,) = tokenizer([(talk(prompt, "a cat ."), [IMAGE])])
    fed = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image", "image": PICTURE}, {"type": "text", "text": prompt}]}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
    )["input_ids"][0]
    first = int(np.flatnonzero(made.supervised)[0])
    assert made.input_ids[:first].tolist() == list(fed)


def test_text_alone_has_no_image(tokenizer: ItemTokenizer) -> None:
    (made,) = tokenizer([(talk("hello", "a cat"), [])])
    assert tokenizer.image_token_id not in made.input_ids
    assert made.images == ()


def test_special_tokens_in_a_text_are_not_taken_for_such(processor, tokenizer: ItemTokenizer) -> None:
    (made,) = tokenizer([((Turn("assistant", "a <image> cat </s> <S>"),), [IMAGE])])
    assert (made.input_ids == tokenizer.image_token_id).sum() == 16
    assert learned(processor, made) == "a cat</s>"


def test_too_long_texts_are_cut_and_counted_but_an_image_never(processor) -> None:
    item = ((Turn("assistant", "a cat " * 50),), [IMAGE])
    (made,) = ItemTokenizer(processor, max_length=30)([item])
    assert len(made.input_ids) == 30
    assert made.num_truncated == 1 + 16 + 100 + 1 - 30
    (whole,) = ItemTokenizer(processor, max_length=10)([item])
    assert whole.num_truncated == 0
    assert len(whole.input_ids) > 10  # the plan drops it as too long


def test_items_do_not_depend_on_their_company(tokenizer: ItemTokenizer) -> None:
    items = [
        (talk("where is the cat ?", "left"), [IMAGE]),
        ((Turn("assistant", "a dog"),), [IMAGE]),
        (talk("hello", "a cat"), []),
    ]
    together = tokenizer(items)
    for one, made in zip(items, together, strict=True):
        assert np.array_equal(tokenizer([one])[0].input_ids, made.input_ids)


def test_pixels_are_the_processors_own(processor, tokenizer: ItemTokenizer) -> None:
    expected = processor(images=[PICTURE], text=["<image>"], return_tensors="pt")["pixel_values"][0]
    assert expected.equal(tokenizer.pixels(PICTURE))
    assert tokenizer.blank.shape == expected.shape


def test_a_folder_without_chat_template_is_refused(processor) -> None:
    bare = load_processor(BASE_FOLDER)
    bare.chat_template = bare.tokenizer.chat_template = None
    with pytest.raises(CheckpointError, match="chat template"):
        ItemTokenizer(bare, 64)


HEADERS = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
"""As Llama 3 Instruct writes a conversation (its end of turn is its end of text)."""


@pytest.fixture(scope="module")
def llama():
    """A processor with that template over single bytes, so that what is decoded is what was written."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, PreTrainedTokenizerFast, SiglipVisionConfig

    from vila2_ray.model import build_processor, build_vila
    from vila2_ray.model.template import with_images

    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = Tokenizer(models.BPE(letters, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|start_header_id|>", "<|end_header_id|>"],
    )
    tokenizer.chat_template = with_images(HEADERS)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = SiglipVisionConfig(**sizes, image_size=28, patch_size=7, vision_use_head=False)
    model, tokenizer = build_vila(vision, LlamaConfig(**sizes, vocab_size=len(tokenizer)), tokenizer=tokenizer)
    return build_processor(model.config, tokenizer)


def test_a_conversation_that_goes_on_from_a_text_is_learned_where_nobody_asks(
    processor, tokenizer: ItemTokenizer
) -> None:
    item = (Turn("assistant", "a red cat"), *talk("where is the cat ?", "left", "how many ?", "one"))
    text, alone, whole = tokenizer([(item[:1], [IMAGE]), (item[1:], []), (item, [IMAGE])])
    assert learned(processor, whole) == "a red cat</s> left</s> one</s>"
    begin = len(text.input_ids)
    assert np.array_equal(whole.input_ids[:begin], text.input_ids), "the text stands as it does alone"
    assert np.array_equal(whole.input_ids[begin:], alone.input_ids[1:]), "the conversation as well, but begins nothing"
    assert np.array_equal(whole.supervised, np.concatenate([text.supervised, alone.supervised[1:]]))
    assert (whole.input_ids == processor.tokenizer.bos_token_id).sum() == 1


def test_what_is_learned_of_a_text_and_turns_with_llamas_headers(llama) -> None:
    item = (Turn("assistant", "a red cat"), *talk("where is it?", "left", "read!", "stop"))
    (made,) = ItemTokenizer(llama, max_length=512)([(item, [IMAGE])])
    image = made.input_ids == llama.tokenizer.convert_tokens_to_ids("<image>")
    asked = "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    said = ["a red cat<|eot_id|>", "left<|eot_id|>", "stop<|eot_id|>"]
    assert llama.tokenizer.decode(made.input_ids[~image]) == (
        "<|begin_of_text|>" + said[0] + asked.format("where is it?") + said[1] + asked.format("read!") + said[2]
    )
    assert image.sum() == 4
    assert image[1:5].all()
    assert llama.tokenizer.decode(made.input_ids[made.supervised]) == "".join(said)


def test_turns_are_cut_with_their_item(processor) -> None:
    item = (Turn("assistant", "a red cat"), *talk("where is the cat ?", "left " * 50))
    (made,) = ItemTokenizer(processor, max_length=40)([(item, [IMAGE])])
    assert len(made.input_ids) == 40
    assert made.num_truncated > 0
    assert learned(processor, made).startswith("a red cat</s> left left")
