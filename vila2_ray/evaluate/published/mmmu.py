"""MMMU: <Subject>/validation-….parquet, a row per question with its pictures, `<image 1>` standing in the texts.

Questions with several pictures show them side by side, as one. `split` names another than validation that has answers.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa

from vila2_ray.errors import CorpusError
from vila2_ray.evaluate.items import Item
from vila2_ray.evaluate.published.files import MAX_TEXT_CHARS, Entry, Files, bounded
from vila2_ray.evaluate.published.options import LETTER
from vila2_ray.evaluate.published.shortanswers import SHORT
from vila2_ray.evaluate.rules.letters import with_letters
from vila2_ray.storage import Store

_COLUMNS = ("id", "question", "options", "answer", "question_type")
_PLACE = re.compile(r"<image (\d+)>")


@dataclass(frozen=True)
class RowPicture:
    """A picture in a column of a Parquet file."""

    store: Store
    file: str
    column: str
    row: int

    @property
    def name(self) -> str:
        return f"{self.store.path(self.file)}#{self.row}/{self.column}"

    def read(self) -> bytes:
        value = _column(self.store, self.file, self.column)[self.row].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise CorpusError(self.name, "no picture's bytes there", "Fetch the published file again")
        return bounded(data, self.name)


def read_mmmu(files: Files) -> Iterator[Item]:
    split = files.config.split or "validation"
    wanted = files.config.annotations or files.store.list(suffix=".parquet")
    names = [name for name in wanted if files.config.annotations or name.rpartition("/")[2].startswith(f"{split}-")]
    if not names:
        raise CorpusError(files.store.uri, f"no …/{split}-….parquet there", "Put MMMU's subject folders there")
    for name in names:
        files.add_stamp(name)
        table = files.store.read_table(name, _COLUMNS)
        for row, fields in enumerate(table.to_pylist()):
            yield from _item(files, name, row, Entry(fields, f"row {row}", files.store.path(name)))


def _item(files: Files, name: str, row: int, entry: Entry) -> Iterator[Item]:
    number, question = entry.text("id"), entry.text("question")
    is_open = entry.text("question_type") != "multiple-choice"
    choices = () if is_open else _literal(entry, "options")
    answers = _literal(entry, "answer") if entry.text("answer").startswith("[") else (entry.text("answer"),)
    shown = f"{question}\n{with_letters(choices)}" if choices else question
    prompt = f"{shown}\n\n{files.config.instruction or (LETTER if choices else SHORT)}"
    places = dict.fromkeys(_PLACE.findall(shown)) or {"1": None}
    if not all(place in "1234567" and len(place) == 1 for place in places):
        raise entry.refused("question", question, "a question whose images are 1 to 7")
    pictures = tuple(RowPicture(files.store, name, f"image_{place}", row) for place in sorted(places))
    subject = re.fullmatch(r"[^_]+_(.+)_\d+", number)
    groups = (subject.group(1),) if subject else ()
    yield Item(number, pictures, prompt, answers, choices, question, groups)


def _literal(entry: Entry, name: str) -> tuple[str, ...]:
    """A list of texts as Python writes it, which is how MMMU keeps one."""
    text = entry.text(name)
    try:
        found = ast.literal_eval(text) if len(text) <= MAX_TEXT_CHARS else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise entry.refused(name, text, "a list of texts")
    return tuple(found)


@lru_cache(maxsize=8)
def _column(store: Store, file: str, column: str) -> pa.ChunkedArray:
    """Questions are asked in the order of the files, so a few columns are enough."""
    return store.read_table(file, [column]).column(column)
