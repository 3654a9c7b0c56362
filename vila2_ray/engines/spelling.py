"""Token ids to text while they come: whole characters only, and in sum exactly what decoding all of them gives."""

from __future__ import annotations

from typing import Any

_WINDOW, _OVERLAP = 24, 8
"""Tokens that are decoded at each step at most, about, and those of them that only give context."""
_BROKEN = "\N{REPLACEMENT CHARACTER}"
"""How a decoder writes the bytes of a character that is not whole yet."""
_TIDIED = 4
"""Characters at the end that a tokenizer which tidies spaces may still change: ` n't` becomes `n't`."""


class Spelling:
    """Of one answer. Decodes a window of the latest tokens, so that a long answer costs no more at its end."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        tidies = bool(getattr(tokenizer, "clean_up_tokenization_spaces", False))
        fast = getattr(tokenizer, "backend_tokenizer", None)
        # what transformers would call in the end; its own way there costs more than the decoding
        self._decoder = tokenizer if tidies or fast is None else fast
        self._ids: list[int] = []
        self._settled = ""
        """Text of the tokens before `_known`."""
        self._start = self._known = 0
        """The window's first token, and the first one behind its context."""
        self._context = ""
        """Text of the window's tokens before `_known`."""
        self._num_said = 0
        """Characters that were given out, leading space not counted."""
        self._unsettled = _TIDIED if tidies else 0

    def add(self, token_ids: list[int]) -> str:
        """What can be said more now."""
        self._ids += token_ids
        text = self._text()
        self._slide(text)
        text = text.lstrip()
        sure = text[: len(text) - self._unsettled] if self._unsettled else text
        sure = sure.rstrip(_BROKEN).rstrip()  # a caption ends without spaces, so they wait for a word
        return self._say(sure)

    def finish(self) -> str:
        """All that is left, of all tokens."""
        return self._say(whole_text(self._tokenizer, self._ids))

    def _say(self, text: str) -> str:
        new = text[self._num_said :]
        self._num_said += len(new)
        return new

    def _text(self) -> str:
        return self._settled + self._decode(self._start, len(self._ids))[len(self._context) :]

    def _slide(self, text: str) -> None:
        """Move the window on, where text and text before and after the cut prove to be the same."""
        if len(self._ids) - self._start < _WINDOW:
            return
        known = len(self._ids) - _OVERLAP
        start = known - _OVERLAP
        before = self._settled, self._start, self._known, self._context
        self._settled += self._decode(self._start, known)[len(self._context) :]
        self._start, self._known, self._context = start, known, self._decode(start, known)
        if self._text() != text:
            self._settled, self._start, self._known, self._context = before

    def _decode(self, start: int, stop: int) -> str:
        return str(self._decoder.decode(self._ids[start:stop], skip_special_tokens=True))


def whole_text(tokenizer: Any, token_ids: list[int]) -> str:
    """What a caption says, as every engine writes it."""
    return str(tokenizer.decode(token_ids, skip_special_tokens=True)).strip()
