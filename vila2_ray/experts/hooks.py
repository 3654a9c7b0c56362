"""Export hooks at work: each looks at every sample of a shard once and leaves a file of scores; no shard twice.

A command is started once per shard, in a folder of its own, `{input}` and `{output}` in its words replaced by paths (or
both appended, in this order). Input is Parquet: `id` (string: `<shard>/<key>`, with `#<number>` where a sample has
several images), and `image` (binary: the file as the corpus has it) or `text` (string), a row for each. What it writes
to the output path is JSON Lines or Parquet, told apart by its first bytes: `id`, `score` (0 to 1; true and false are 1
and 0) and optionally `label` (string). Of several rows with one id the highest score counts; an id without a score is
not judged, and neither is its sample. Exit code 0 means that it is done.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from vila2_ray.config import HookConfig
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.hookverdicts import HookVerdicts, count_verdicts
from vila2_ray.corpus.images import decode_image
from vila2_ray.corpus.index import current_metadata
from vila2_ray.corpus.layers import Layer
from vila2_ray.corpus.samples import Sample
from vila2_ray.corpus.shards import ShardRef
from vila2_ray.errors import Reason, SampleError, StageFailed
from vila2_ray.experts.classifier import open_classifier
from vila2_ray.schema import HOOK_VERDICT, Status
from vila2_ray.storage import Store
from vila2_ray.train.children import run_child

_ROWS_AT_ONCE = 256
"""Images that are in memory at once on their way to a command."""
_NO_VERDICT = "no verdict"


class Piece(NamedTuple):
    """One image or text of a sample."""

    row: int
    id: str
    image: bytes | None
    text: str


class Said(NamedTuple):
    """What was said of one piece: a score with its label, or why there is none."""

    score: float | None
    label: str
    problem: str


@dataclass(frozen=True)
class ShardHook:
    """Judges a shard and writes what was found; picklable, runs anywhere, at once where it has been done."""

    name: str
    hook: HookConfig
    corpus: Corpus
    verdicts: HookVerdicts
    layers: tuple[Layer, ...] = field(default=())
    """Whose captions are read, where the hook reads texts."""

    def __call__(self, ref: ShardRef) -> dict[str, int]:
        """Samples of the shard by what was said of them, see `count_verdicts`. Raises StageFailed, CorpusError and
        CheckpointError for a hook that does not work.
        """
        self.corpus.index(ref)  # made, where it is missing
        told = current_metadata(ref, self.corpus.columns, self.corpus.index_store) or {}
        identity = {name: told[name] for name in ("stamp", "digest")}
        if self.verdicts.has(ref.source, ref.shard):
            found = self.verdicts.metadata(ref.source, ref.shard)
            if {name: found.get(name) for name in identity} == identity:
                return count_verdicts(self.verdicts.read(ref.source, ref.shard), self.hook.min_score)
        table = self._judged(ref)
        self.verdicts.write(ref.source, ref.shard, table, identity)
        return count_verdicts(table, self.hook.min_score)

    def _judged(self, ref: ShardRef) -> pa.Table:
        worst: dict[int, Said] = {}
        judge = self._by_command if self.hook.command else self._by_checkpoint
        for row, said in judge(self._pieces(ref)):
            worst[row] = _worse(worst[row], said) if row in worst else said
        rows = []
        for row, key in enumerate(self.corpus.index(ref)["key"].to_pylist()):
            score, label, problem = worst.get(row, Said(None, "", ""))
            where = {"source": ref.source, "shard": ref.shard, "row": row, "sample_id": f"{ref.shard}/{key}"}
            rows.append({**where, "score": score, "label": label or None, "problem": problem or None})
        return pa.Table.from_pylist(rows, schema=HOOK_VERDICT)

    def _pieces(self, ref: ShardRef) -> Iterator[Piece]:
        """What there is to judge; samples that cannot be exported have nothing."""
        reads_images = self.hook.reads == "images"
        captions = {} if reads_images else self._captions(ref)
        for sample in self.corpus.read(ref, images=reads_images):
            if sample.problem is not None and sample.problem.reason is not Reason.DOCUMENT:
                continue
            if not reads_images:
                texts = dict.fromkeys([sample.alt_text, *captions.get(sample.row, []), *_document_texts(sample)])
                yield from (Piece(sample.row, sample.sample_id, None, text) for text in texts if text.strip())
                continue
            if sample.image:
                yield Piece(sample.row, sample.sample_id, sample.image, "")
            for number, data in sample.pictures.items():
                if data:
                    yield Piece(sample.row, f"{sample.sample_id}#{number}", data, "")

    def _captions(self, ref: ShardRef) -> dict[int, list[str]]:
        """Row → what the layers say of it, flagged or not."""
        found: dict[int, list[str]] = {}
        for layer in self.layers:
            if layer.has(ref.source, ref.shard):
                for row in layer.read(ref.source, ref.shard, ["row", "status", "text"]).to_pylist():
                    if row["status"] == Status.CAPTIONED.value and row["text"]:
                        found.setdefault(row["row"], []).append(row["text"])
        return found

    def _by_checkpoint(self, pieces: Iterator[Piece]) -> Iterator[tuple[int, Said]]:
        where = f"export.hooks.{self.name}"
        folder = Store(self.hook.checkpoint).local_folder()
        classifier = open_classifier(folder, self.hook.labels, self.hook.reads, where)
        while batch := list(islice(pieces, self.hook.batch_size)):
            if self.hook.reads == "texts":
                for piece, (score, label) in zip(batch, classifier.texts([p.text for p in batch]), strict=True):
                    yield piece.row, Said(score, label, "")
                continue
            readable = []
            for piece in batch:
                try:
                    readable.append((piece, decode_image(piece.image or b"", self.corpus.max_pixels)))
                except SampleError as problem:
                    yield piece.row, Said(None, "", problem.reason.value)
            scores = classifier.images([image for _, image in readable])
            for (piece, _), (score, label) in zip(readable, scores, strict=True):
                yield piece.row, Said(score, label, "")

    def _by_command(self, pieces: Iterator[Piece]) -> Iterator[tuple[int, Said]]:
        with tempfile.TemporaryDirectory(prefix="vila2-hook-") as scratch:
            place = Path(scratch)
            asked = _write_input(pieces, place / "input.parquet", self.hook.reads)
            if not asked:
                return
            self._run(place)
            said = _read_output(place / "output", self.name)
        if unknown := sorted(said.keys() - asked.keys()):
            raise StageFailed(
                f"export.hooks.{self.name}: gave a score for {unknown[0]!r}, which it was not asked about"
            )
        for name, rows in asked.items():
            yield from ((row, said.get(name, Said(None, "", _NO_VERDICT))) for row in rows)

    def _run(self, place: Path) -> None:
        paths = {"{input}": str(place / "input.parquet"), "{output}": str(place / "output")}
        words = list(self.hook.command)
        if not any(mark in word for mark in paths for word in words):
            words += list(paths)
        for mark, path in paths.items():
            words = [word.replace(mark, path) for word in words]
        try:
            ended = run_child(words, place / "log")
        except OSError as error:
            raise StageFailed(
                f"export.hooks.{self.name}: {words[0]} cannot be started: {error.strerror or error}"
            ) from error
        if ended.code:
            last = " ".join(ended.tail[-1:]) or "it said nothing"
            raise StageFailed(f"export.hooks.{self.name}: {words[0]} ended with exit code {ended.code}: {last[:300]}")


def _write_input(pieces: Iterable[Piece], path: Path, reads: str) -> dict[str, set[int]]:
    """Write what a command is asked about, some rows at a time; id → rows."""
    what = ("image", pa.binary()) if reads == "images" else ("text", pa.string())
    schema = pa.schema([("id", pa.string()), what])
    asked: dict[str, set[int]] = {}
    left = iter(pieces)
    with pq.ParquetWriter(path, schema) as writer:
        while batch := list(islice(left, _ROWS_AT_ONCE)):
            for piece in batch:
                asked.setdefault(piece.id, set()).add(piece.row)
            rows = [{"id": p.id, what[0]: p.image if reads == "images" else p.text} for p in batch]
            writer.write_table(pa.Table.from_pylist(rows, schema))
    return asked


def _read_output(path: Path, name: str) -> dict[str, Said]:
    """Id → the highest score. Raises StageFailed for what is not as it should be."""
    said: dict[str, Said] = {}
    for number, row in enumerate(_rows(path, name), 1):
        where = f"export.hooks.{name}: row {number} of the command's output"
        if not isinstance(row, dict) or not isinstance(row.get("id"), str):
            raise StageFailed(f"{where} has no id; each row needs id and score")
        score = row.get("score")
        if score is None:
            one = Said(None, "", _NO_VERDICT)
        elif isinstance(score, (int, float)) and 0 <= score <= 1:
            one = Said(float(score), str(row.get("label") or ""), "")
        else:
            raise StageFailed(f"{where} has the score {score!r}; it must be a number from 0 to 1")
        said[row["id"]] = _worse(said[row["id"]], one) if row["id"] in said else one
    return said


def _rows(path: Path, name: str) -> Iterator[Any]:
    if not path.is_file():
        raise StageFailed(f"export.hooks.{name}: the command wrote nothing to its output path")
    try:
        with path.open("rb") as file:
            is_parquet = file.read(4) == b"PAR1"
        if is_parquet:
            yield from pq.read_table(path).to_pylist()
            return
        with path.open("r", encoding="utf-8") as lines:
            yield from (json.loads(line) for line in lines if line.strip())
    except (ValueError, pa.ArrowException) as error:  # ValueError: also what is not UTF-8
        raise StageFailed(f"export.hooks.{name}: the command's output is neither JSON Lines nor Parquet") from error


def _worse(one: Said, other: Said) -> Said:
    """Of two pieces of a sample the one that speaks more against it; what could not be judged is not forgotten."""
    problem = one.problem or other.problem
    worst = max((one, other), key=lambda said: -1.0 if said.score is None else said.score)
    return worst._replace(problem=problem)


def _document_texts(sample: Sample) -> Sequence[str]:
    """Of an interleaved document."""
    told = sample.extra.get("texts") or sample.extra.get("text_list") or []
    return [text for text in told if isinstance(text, str)] if isinstance(told, list) else []
