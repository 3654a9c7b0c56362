"""Texts at which an answer ends, found while its pieces come. Pure."""

from __future__ import annotations


class Cut:
    """What of a growing text may go out: never a part of a stop text that the next piece might complete."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self.stopped = False
        """Whether a stop text was met; nothing more comes after it."""
        self._stops = stops
        self._held_back = max((len(stop) for stop in stops), default=1) - 1
        self._pending = ""

    def feed(self, text: str) -> str:
        """What can be said now that `text` was added."""
        if self.stopped or not self._stops:
            return "" if self.stopped else text
        self._pending += text
        found = min((at for stop in self._stops if (at := self._pending.find(stop)) >= 0), default=-1)
        if found >= 0:
            self.stopped, said, self._pending = True, self._pending[:found], ""
            return said
        safe = len(self._pending) - self._held_back
        if safe <= 0:
            return ""
        said, self._pending = self._pending[:safe], self._pending[safe:]
        return said

    def rest(self) -> str:
        """What was held back, when the text has come to its end."""
        said, self._pending = self._pending, ""
        return said
