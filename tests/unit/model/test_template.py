"""Chat templates that come to place the image, and are otherwise the language model's own."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from vila2_ray.model.template import PLAIN, with_images

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe brief.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HEADERS = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}"
    "{%- if messages[0]['role'] == 'system' %}{%- set said = messages[0]['content']|trim %}"
    "{%- set messages = messages[1:] %}{%- else %}{%- set said = '' %}{%- endif %}"
    "{{- 'Today: ' + date_string + ' ' + said }}"
    "{%- for message in messages %}"
    "{{- '[' + message['role'] + ']' + message['content'] | trim + '[eot]' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '[assistant]' }}{%- endif %}"
)
SEEN = [{"type": "image"}, {"type": "text", "text": "what is it"}]
TALK = [{"role": "user", "content": SEEN}, {"role": "assistant", "content": [{"type": "text", "text": "a cat"}]}]


@pytest.mark.parametrize(
    ("template", "asked", "answered"),
    [
        (
            CHATML,
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<image>\nwhat is it<|im_end|>\n"
            "<|im_start|>assistant\n",
            "a cat<|im_end|>\n",
        ),
        (HEADERS, "<s>Today: 26 Jul 2024 [user]<image>\nwhat is it[eot][assistant]", "a cat[eot]"),
        (None, "<s>USER: <image>\nwhat is it ASSISTANT:", " a cat</s>"),
    ],
    ids=["chatml", "headers", "none"],
)
def test_the_image_is_placed_and_an_answer_continues_its_prompt(
    template: str | None, asked: str, answered: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    placed = with_images(template)

    def render(messages: list[dict], prompting: bool) -> str:
        return tokenizer.apply_chat_template(
            messages, chat_template=placed, add_generation_prompt=prompting, tokenize=False
        )

    assert render(TALK[:1], True) == asked
    assert render(TALK, False) == asked + answered
    plain = [{"role": "system", "content": "Look."}, {"role": "user", "content": "hello"}]
    alone = tokenizer.apply_chat_template(
        plain, chat_template=template or PLAIN, tokenize=False, date_string="26 Jul 2024"
    )
    assert render(plain, False) == alone


def test_a_template_that_knows_the_image_is_left_alone() -> None:
    assert with_images("x <image> y") == "x <image> y"
