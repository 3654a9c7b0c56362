"""The tiny tokenizer: every word of the world is one token, and any other ASCII text falls apart into characters.

Lower-casing, split at spaces and punctuation, WordPiece over the world's words plus all single characters. No number
is in the vocabulary, so every digit is a token.
"""

from __future__ import annotations

import re
import string

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from vila2_ray.model.processor import IMAGE_TOKEN
from vila2_ray.recipes.tiny.world import JUNK, LEXICON, NAMES, PLACES, SIZES, TINY_PROMPTS

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", IMAGE_TOKEN)
_PHRASES = (
    "a an the at is there where what how many are say does sign reading yes no and of in on with only one thing things "
    "object objects picture photo cute icon image empty nothing left right above below box give text read word words "
    "user assistant answer question which color describe locate list"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first %}<s>{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}</s>{% else %} : {% endif %}"
    "{% endfor %}"
)
"""`<s><image>question : answer</s>`. A user's turn ends in a colon, which is also all of the generation prompt."""


def words() -> list[str]:
    """All words of the world's texts, sorted."""
    text = " ".join((*NAMES, *LEXICON, *SIZES, *PLACES, *JUNK, *TINY_PROMPTS.values(), _PHRASES))
    return sorted(set(re.findall(r"[a-z]+", text)))


def build() -> PreTrainedTokenizerFast:
    """The tokenizer, with its chat template. The same bytes at every call."""
    characters = [char for char in string.printable if not char.isspace() and not char.isupper()]
    entries = [*SPECIAL, *characters, *(f"##{char}" for char in characters)]
    entries += [word for word in words() if len(word) > 1]
    vocabulary = {entry: index for index, entry in enumerate(entries)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>", max_input_chars_per_word=1000))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=[IMAGE_TOKEN],
        model_max_length=512,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
