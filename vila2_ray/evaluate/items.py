"""What a benchmark asks: an item is a question about one picture or several, with all that its answer is scored by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Picture(Protocol):
    """An encoded picture that is read when it is asked about."""

    @property
    def name(self) -> str:
        """The same for the same picture."""

    def read(self) -> bytes:
        """Its encoded bytes. Raises StorageError, CorpusError."""


@dataclass(frozen=True)
class Item:
    """One thing that a model is asked."""

    id: str
    """Unique in its benchmark."""
    pictures: tuple[Picture, ...]
    """Several are shown side by side, as one."""
    prompt: str
    """What the model is asked, instructions included."""
    answers: tuple[str, ...] = ()
    """What is right: people's answers, the right option's letter, yes or no, reference captions, objects."""
    choices: tuple[str, ...] = ()
    """Texts of the options A, B …"""
    question: str = ""
    """The question alone, for a judge and for people; where it is empty, the prompt says it."""
    groups: tuple[str, ...] = ()
    """Kinds of question that get a score of their own."""
    cluster: str = ""
    """Items of one cluster depend on each other (they share an image), so they are drawn together; "": its own."""

    @property
    def drawn_with(self) -> str:
        return self.cluster or f"item {self.id}"
