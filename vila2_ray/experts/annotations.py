"""Boxes and printed lines that people or machines have annotated before, found again by image.

All rows are read once into a small database in the node's cache, whichever process asks first; the others on the node
share it, and so does every later run over unchanged files. A process holds only the row that it asks for: many rows
(GRIT has 20 million) take time once (some 15,000 a second) and disk under `$VILA2_CACHE` (as much again), no memory.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from vila2_ray.captions.boxes import thousandths
from vila2_ray.corpus.images import image_size
from vila2_ray.corpus.samples import Sample
from vila2_ray.errors import CorpusError, SampleError
from vila2_ray.experts.annotationfiles import ENDINGS, read_rows
from vila2_ray.experts.annotationforms import REMEDY, BadRow, Row, names_of, read_row, without_ending
from vila2_ray.globs import glob_all
from vila2_ray.nodecache import cached_folder
from vila2_ray.skills.things import Annotation

_FORMAT = 1
"""Of the database; raised when it holds something else for the same files."""
_DATABASE = "annotations.sqlite"
_NUM_EXAMPLES = 5
_NO_LIMIT = 1 << 40
"""Pixels: only headers are looked at here."""
_TABLES = """
CREATE TABLE rows (row INTEGER PRIMARY KEY, content BLOB NOT NULL);
CREATE TABLE names (name TEXT PRIMARY KEY, row INTEGER) WITHOUT ROWID;
CREATE TABLE sizes (name TEXT PRIMARY KEY, width REAL, height REAL) WITHOUT ROWID;
CREATE TABLE summary (content TEXT NOT NULL);
"""


@dataclass
class AnnotationSummary:
    """What was found in the files."""

    num_rows: int = 0
    """With an annotation."""
    num_things: int = 0
    num_bad_rows: int = 0
    """Left out whole."""
    num_bad_things: int = 0
    """Left out of rows that are kept."""
    num_ambiguous: int = 0
    """Names under which several different rows stand; none of them is used by that name."""
    examples: list[str] = field(default_factory=list)
    """`<file>, row <number>: <what is wrong>` for the first of what was left out."""


class AnnotationFile:
    """Annotations by image; `open_annotations` makes it. One for each process, not to be shared by threads."""

    def __init__(self, database: Path, uri: str) -> None:
        self.uri = uri
        self.num_matched = 0
        """Samples that `of` has found an annotation for."""
        self.num_unmatched = 0
        """Samples that no row is about."""
        self.num_without_size = 0
        """Samples whose row is in pixels of an image whose size nothing tells."""
        self._database = sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
        told = self._one("SELECT content FROM summary")
        assert told is not None, "a database is seen only when it is whole"
        self.summary = AnnotationSummary(**json.loads(told[0]))

    def of(self, sample: Sample) -> Annotation | None:
        """What is annotated of a sample's image; None where nothing is.

        Rows are looked for by `sample_id`, by the sample's url, by its key (without the ending of an image, and without
        folders where only one of the two has any), and by the columns `id` and `image_id` that it carries along; a
        sample that carries GRIT's own columns along is its own annotation. Pixels are those of the row's own size, else
        of a row of sizes, else of the sample's columns `original_width`, `original_height` or `width`, `height`, else
        of the image.
        """
        names = _names_of_sample(sample)
        found = self._row(names) or _carried_along(sample)
        if found is None:
            self.num_unmatched += 1
            return None
        annotation, pixels, size = found
        if pixels is not None:
            size = size or self._size(names) or _size_of_sample(sample)
            if size is None:
                self.num_without_size += 1
                return None
            things = zip(annotation.things or (), pixels, strict=True)
            boxed = [replace(thing, box=thousandths(corners, *size)) for thing, corners in things]
            annotation = replace(annotation, things=tuple(thing for thing in boxed if thing.box.is_valid))
        self.num_matched += 1
        return annotation

    def close(self) -> None:
        self._database.close()

    def _row(self, names: list[str]) -> _Content | None:
        for name in names:
            found = self._one("SELECT content FROM rows JOIN names ON rows.row = names.row WHERE names.name = ?", name)
            if found:
                return _unpacked(found[0])
        return None

    def _size(self, names: list[str]) -> tuple[float, float] | None:
        for name in names:
            if found := self._one("SELECT width, height FROM sizes WHERE name = ?", name):
                return found[0], found[1]
        return None

    def _one(self, statement: str, *values: object) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self._database.execute(statement, values).fetchone()
        return row


def open_annotations(uri: str) -> AnnotationFile:
    """Annotations of a file, a folder or a glob (`annotationforms` says which forms, `annotationfiles` which files).

    Bad rows and bad things are left out, counted and named in `summary`. Raises CorpusError when no file is there, when
    one is of no known form or holds not a single usable row, StorageError when one cannot be read.
    """
    stamps = {file: stamp for file, stamp in glob_all([uri]).items() if file.lower().endswith(ENDINGS)}
    if not stamps:
        raise CorpusError(uri, f"no annotation file there ({', '.join(ENDINGS)})", REMEDY)
    content = hashlib.sha256(json.dumps([_FORMAT, stamps]).encode()).hexdigest()[:32]
    num_bytes = sum(int(stamp.split()[0]) for stamp in stamps.values())
    folder = cached_folder(f"annotations-{content}", num_bytes, lambda to: _write(to, uri, list(stamps)))
    return AnnotationFile(folder / _DATABASE, uri)


_Content = tuple[Annotation, "list[tuple[float, float, float, float]] | None", "tuple[float, float] | None"]
"""Annotation, corners in pixels where these are to be used, size where the row knows it."""


def _write(folder: Path, uri: str, files: list[str]) -> None:
    folder.mkdir(parents=True)
    database = sqlite3.connect(folder / _DATABASE)
    try:
        database.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + _TABLES)
        summary = AnnotationSummary()
        for file in files:
            for row in _rows_of(file, summary):
                _insert(database, row, summary)
        if not summary.num_rows:
            told = f"; {summary.examples[0]}" if summary.examples else ""
            raise CorpusError(uri, f"holds no annotation{told}", REMEDY)
        ambiguous = database.execute("SELECT COUNT(*) FROM names WHERE row IS NULL").fetchone()
        summary.num_ambiguous = int(ambiguous[0])
        database.execute("INSERT INTO summary VALUES (?)", (json.dumps(asdict(summary)),))
        database.commit()
    finally:
        database.close()


def _rows_of(file: str, summary: AnnotationSummary) -> Iterator[Row]:
    """Usable rows of a file. Raises CorpusError when it has rows and none of them is of a known form."""
    num_usable, problem = 0, ""
    for number, fields in read_rows(file):
        try:
            if fields is None:
                raise BadRow("is not JSON")
            row = read_row(fields)
        except BadRow as error:
            problem = problem or f"row {number} {error}"
            summary.num_bad_rows += 1
            _exemplify(summary, file, number, str(error))
            continue
        num_usable += 1
        summary.num_bad_things += len(row.bad_things)
        for told in row.bad_things:
            _exemplify(summary, file, number, told)
        yield row
    if problem and not num_usable:
        raise CorpusError(file, f"is in no form that is known: {problem}", REMEDY)


def _exemplify(summary: AnnotationSummary, file: str, number: int, told: str) -> None:
    if len(summary.examples) < _NUM_EXAMPLES:
        summary.examples.append(f"{posixpath.basename(file)}, row {number}: {' '.join(told.split())[:200]}")


def _insert(database: sqlite3.Connection, row: Row, summary: AnnotationSummary) -> None:
    if row.annotation is None:
        for name in row.names:
            database.execute("INSERT OR REPLACE INTO sizes VALUES (?, ?, ?)", (name, *(row.size or (None, None))))
        return
    number, content = summary.num_rows, _packed(row)
    summary.num_rows += 1
    summary.num_things += len(row.annotation.things or ())
    database.execute("INSERT INTO rows VALUES (?, ?)", (number, content))
    for name in row.names:
        there = database.execute(
            "SELECT names.row, content FROM names LEFT JOIN rows ON rows.row = names.row WHERE name = ?", (name,)
        ).fetchone()
        if there is None:
            database.execute("INSERT INTO names VALUES (?, ?)", (name, number))
        elif there[0] is not None and there[1] != content:
            database.execute("UPDATE names SET row = NULL WHERE name = ?", (name,))


def _packed(row: Row) -> bytes:
    assert row.annotation is not None
    return json.dumps([row.annotation.as_json(), row.pixels, row.size], ensure_ascii=False).encode()


def _unpacked(content: bytes) -> _Content:
    annotation, pixels, size = json.loads(content)
    return Annotation.from_json(annotation), pixels, None if size is None else (size[0], size[1])


def _names_of_sample(sample: Sample) -> list[str]:
    url = sample.extra.get("url")
    names = [f"sample_id:{sample.sample_id}", *([f"url:{url}"] if isinstance(url, str) else [])]
    path = without_ending(sample.key)
    # where one of the two names a folder and the other none, the file's name decides
    names += [f"key:{path}", f"key:{posixpath.basename(path)}" if "/" in path else f"stem:{path}"]
    return [*names, *names_of({name: sample.extra[name] for name in ("id", "image_id") if name in sample.extra})]


def _carried_along(sample: Sample) -> _Content | None:
    """img2dataset carries GRIT's columns along."""
    if "noun_chunks" not in sample.extra and "ref_exps" not in sample.extra:
        return None
    try:
        row = read_row({"caption": sample.alt_text, **sample.extra, "key": sample.key})
    except BadRow:
        return None
    return None if row.annotation is None else (row.annotation, row.pixels, row.size)


def _size_of_sample(sample: Sample) -> tuple[float, float] | None:
    for width, height in (("original_width", "original_height"), ("width", "height")):
        told = sample.extra.get(width), sample.extra.get(height)
        if all(isinstance(side, (int, float)) and side > 0 for side in told):
            return float(str(told[0])), float(str(told[1]))
    try:
        found = image_size(sample.image, _NO_LIMIT) if sample.image else None
    except SampleError:
        return None
    return None if found is None else (float(found[0]), float(found[1]))
