"""A benchmark's folder: its annotation files, bounded and checked field by field, and its pictures."""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vila2_ray.config import BenchmarkConfig
from vila2_ray.errors import CorpusError
from vila2_ray.storage import Store

MAX_FILE_BYTES = 2 << 30
MAX_PICTURE_BYTES = 64 << 20
MAX_TEXT_CHARS = 20_000
"""Of one question, option or answer."""


@dataclass(frozen=True)
class FilePicture:
    """A picture that is a file."""

    store: Store
    file: str

    @property
    def name(self) -> str:
        return self.store.path(self.file)

    def read(self) -> bytes:
        return bounded(self.store.read_range(self.file, 0, MAX_PICTURE_BYTES + 1), self.name)


@dataclass(frozen=True)
class BytesPicture:
    """A picture that an annotation file holds."""

    name: str
    data: bytes = field(repr=False)

    def read(self) -> bytes:
        return bounded(self.data, self.name)


def bounded(data: bytes, name: str) -> bytes:
    """The same. Raises CorpusError where a picture is too large."""
    if len(data) > MAX_PICTURE_BYTES:
        raise CorpusError(name, f"a picture of more than {MAX_PICTURE_BYTES:,} bytes", "Leave it out of the benchmark")
    return data


class Entry:
    """One JSON object of a file; what is asked of it is there and of its kind, or the file is refused."""

    def __init__(self, fields: object, where: str, file: str) -> None:
        self._where, self._file = where, file
        if not isinstance(fields, dict):
            raise self.refused("", fields, "a JSON object")
        self.fields: Mapping[str, Any] = fields

    def text(self, name: str) -> str:
        value = self.fields.get(name)
        if not isinstance(value, str) or len(value) > MAX_TEXT_CHARS:
            raise self.refused(name, value, f"a text of at most {MAX_TEXT_CHARS:,} characters")
        return value

    def optional(self, name: str) -> str:
        """A text, or "" where there is none."""
        return "" if self.fields.get(name) is None else self.text(name)

    def id(self, name: str) -> str:
        """A number or a text, as a text."""
        value = self.fields.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise self.refused(name, value, "a number or a text")
        return str(value)[:MAX_TEXT_CHARS]

    def integer(self, name: str) -> int:
        value = self.fields.get(name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.refused(name, value, "a whole number")
        return value

    def items(self, name: str) -> list[Any]:
        value = self.fields.get(name)
        if not isinstance(value, list):
            raise self.refused(name, value, "a list")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        found = self.items(name)
        if not all(isinstance(each, str) and len(each) <= MAX_TEXT_CHARS for each in found):
            raise self.refused(name, found, "a list of texts")
        return tuple(found)

    def entry(self, name: str) -> Entry:
        return Entry(self.fields.get(name), f"{self._where}.{name}", self._file)

    def entries(self, name: str) -> Iterator[Entry]:
        for number, each in enumerate(self.items(name)):
            yield Entry(each, f"{self._where}.{name}[{number}]", self._file)

    def members(self) -> Iterator[tuple[str, Entry]]:
        """Its fields, each a JSON object."""
        for name, each in self.fields.items():
            yield name, Entry(each, f"{self._where}.{name}", self._file)

    def refused(self, name: str, value: object, wanted: str) -> CorpusError:
        where = f"{self._where}.{name}" if name else self._where
        told = repr(value)
        told = told if len(told) <= 80 else f"{told[:80]}…"
        return CorpusError(self._file, f"{where.lstrip('.')} is {told}, not {wanted}", "Fetch the published file again")


class Files:
    """What lies in a benchmark's folder. Nothing is opened before it is asked for."""

    def __init__(self, config: BenchmarkConfig) -> None:
        self.config, self.store = config, Store(config.path)
        self.missing: list[str] = []
        """Pictures that are not there."""
        self._digest = hashlib.sha256()
        self._pictures: tuple[Store, frozenset[str]] | None = None

    @property
    def digest(self) -> str:
        """sha256 over names and contents of the files that were read, pictures aside."""
        return self._digest.hexdigest()

    def find(self, *published: str) -> str:
        """The first of these names that is there; the configured one, where there is one. Raises CorpusError."""
        wanted = self.config.annotations[:1] or published
        found = next((name for name in wanted if self.store.exists(name)), None)
        if found is None:
            told = " or ".join(wanted)
            raise CorpusError(self.store.uri, f"no {told} there", f"{self.config.kind} reads it in its published form")
        return found

    def look_for(self, published: str) -> str | None:
        """The same for a file that need not be there."""
        return published if self.store.exists(published) else None

    def read(self, name: str) -> bytes:
        """A whole file. Raises CorpusError where it is too large."""
        size = self.store.size(name)
        if size > MAX_FILE_BYTES:
            raise CorpusError(self.store.path(name), f"{size:,} bytes, more than {MAX_FILE_BYTES:,}", "Split it")
        data = self.store.read_bytes(name)
        self._digest.update(f"{name}\0{len(data)}\0".encode())
        self._digest.update(data)
        return data

    def add_stamp(self, name: str) -> None:
        """Let the digest know of a file that is not read whole: its name and size."""
        self._digest.update(f"{name}\0{self.store.size(name)}\0".encode())

    def text(self, name: str) -> str:
        try:
            return self.read(name).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise CorpusError(self.store.path(name), "not UTF-8 text", "Fetch the published file again") from error

    def json(self, name: str, without: str = "") -> Entry:
        """A file that holds one JSON object; fields called `without` are dropped, for they are large."""
        return Entry(self._json(name, self.text(name), without), "", self.store.path(name))

    def json_list(self, name: str) -> Iterator[Entry]:
        """A file that holds a JSON list, or an object a line, whatever its name says."""
        text, path = self.text(name), self.store.path(name)
        lines = [line for line in text.splitlines() if line.strip()]
        if text.lstrip()[:1] == "[":
            found = self._json(name, text)
        else:
            found = [self._json(name, line, line=number) for number, line in enumerate(lines, 1)]
        for number, each in enumerate(found):
            yield Entry(each, f"[{number}]", path)

    def _json(self, name: str, text: str, without: str = "", line: int = 0) -> Any:
        hook: Callable[[dict[str, Any]], dict[str, Any]] | None = None
        if without:
            hook = lambda fields: {key: value for key, value in fields.items() if key != without}  # noqa: E731
        try:
            return json.loads(text, object_hook=hook)
        except (ValueError, RecursionError) as error:
            where = f"line {line} is not JSON" if line else "not JSON"
            raise CorpusError(self.store.path(name), f"{where} ({error})", "Fetch the published file again") from error

    def picture(self, name: str, *folders: str) -> FilePicture | None:
        """A picture by its name in the first of `folders` that is there; None, and counted, where it is missing."""
        if name.startswith("/") or ".." in name.split("/"):
            raise CorpusError(self.store.uri, f"names a picture outside of its folder: {name[:80]!r}", "Leave it out")
        store, present = self._picture_folder(folders)
        if name not in present:
            self.missing.append(name)
            return None
        return FilePicture(store, name)

    def picture_named(self, names: Sequence[str], *folders: str) -> FilePicture | None:
        """The first of several names that is there."""
        _, present = self._picture_folder(folders)
        return self.picture(next((name for name in names if name in present), names[0]), *folders)

    def _picture_folder(self, folders: Sequence[str]) -> tuple[Store, frozenset[str]]:
        """The folder and what is in it, from one listing."""
        if self._pictures is None:
            stores = [Store(self.config.images)] if self.config.images else [self.store.sub(name) for name in folders]
            for store in stores:
                if names := store.list():
                    break
            else:
                told = " or ".join(store.uri for store in stores)
                raise CorpusError(told, "no pictures there", "Put them there, or say where they are by `images`")
            self._pictures = store, frozenset(names)
        return self._pictures


def stem(name: str) -> str:
    """`images/a.jpg` → `a`."""
    return posixpath.splitext(posixpath.basename(name))[0]
