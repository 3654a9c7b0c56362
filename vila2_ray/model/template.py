"""Chat templates for language models that come to see: their own, made to place the image, or LLaVA's plain one."""

from __future__ import annotations

from vila2_ray.model.processor import IMAGE_TOKEN

PLAIN = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: {{ message['content'] }} "
    "{% elif message['role'] == 'assistant' %}ASSISTANT: {{ message['content'] }}{{ eos_token }}"
    "{% else %}{{ message['content'] }} {% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""`USER: … ASSISTANT: …`, as LLaVA-1.5 writes it (arXiv 2310.03744), for a language model that has no template."""

_TO_TEXT = (
    "{%- set flat = namespace(messages=[]) -%}"
    "{%- for message in messages -%}"
    "{%- if message['content'] is string or not message['content'] -%}"
    "{%- set flat.messages = flat.messages + [message] -%}"
    "{%- else -%}"
    "{%- set joined = namespace(text='') -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{%- set joined.text = joined.text + '" + IMAGE_TOKEN + "\\n' -%}"
    "{%- elif part['type'] == 'text' -%}{%- set joined.text = joined.text + part['text'] -%}{%- endif -%}"
    "{%- endfor -%}"
    "{%- set flat.messages = flat.messages + [dict(message, content=joined.text)] -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- set messages = flat.messages -%}"
)
"""Turns content that is a list of parts into text, an image into its placeholder and a line break."""

_SAME_DAY = "{%- if date_string is not defined -%}{%- set date_string = '26 Jul 2024' -%}{%- endif -%}"
"""Llama 3's own fallback: its template otherwise writes today's date, and the same work would differ by the day."""


def with_images(template: str | None) -> str:
    """A language model's chat template that takes content as parts, images among them; `PLAIN` where it has none.

    A template that places `<image>` already is returned as it is.
    """
    template = template or PLAIN
    if IMAGE_TOKEN in template:
        return template
    return _TO_TEXT + (_SAME_DAY if "strftime_now" in template else "") + template
