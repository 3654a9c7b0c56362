"""Votes as a table (schema JUDGEMENT), in a CSV or Parquet file and back.

A cell that begins with = + - @ is run as a formula by spreadsheets, and what raters, models and file names say is other
people's text. In CSV such a cell begins with an apostrophe, as people write it there; `read_judgements` takes it off
again, so that the exact text comes back. Parquet holds texts as they are. Spreadsheets rewrite what looks like a number
or a date when they save (shard 00007 becomes 7): look at a CSV with them, and edit it with something else.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from vila2_ray.captions.votes import EDIT, text_digest
from vila2_ray.errors import ConfigError, CorpusError
from vila2_ray.judge.study import ANSWERS, Pair, Study, Vote, sorted_by
from vila2_ray.schema import JUDGEMENT
from vila2_ray.storage import Store, split_uri

_RUNS = re.compile(r"'*(\s*[=+\-@＝＋－＠]|[\t\r\n])")
_PARQUET = b"PAR1"
_REMEDY = "Write it with vila2 judge export"


def judgements(pairs: Iterable[Pair], votes: Iterable[Vote]) -> pa.Table:
    """Rows of schema JUDGEMENT in the study's order, of one pair in the order of voting; who says nothing has none."""
    rows = [
        row
        for pair, found in sorted_by(votes, list(pairs))
        for vote in sorted(found, key=lambda vote: (vote.voted_at, vote.rater, vote.swapped))
        for row in _rows(pair, vote)
    ]
    return pa.Table.from_pylist(rows, schema=JUDGEMENT)


def write_judgements(studies: Sequence[Study], uri: str) -> int:
    """Write all votes of some studies to a .csv or .parquet file; how many rows.

    A later study may show texts as an earlier one's raters have corrected them: together they say so. Raises
    ConfigError for another ending.
    """
    ending, (folder, name) = _ending(uri), split_uri(uri)
    tables = [judgements(study.pairs(), study.votes()) for study in studies]
    table = pa.concat_tables([JUDGEMENT.empty_table(), *tables])
    if ending == "parquet":
        Store(folder).write_table(name, table)
    else:
        Store(folder).write_bytes(name, _to_csv(table))
    return int(table.num_rows)


def read_judgements(uri: str) -> pa.Table:
    """Rows of schema JUDGEMENT from a CSV or Parquet file, whatever the order of its columns.

    Raises StorageError where there is no file, CorpusError for one that holds something else.
    """
    folder, name = split_uri(uri)
    store = Store(folder)
    data, where = store.read_bytes(name), store.path(name)
    try:
        table = pq.read_table(io.BytesIO(data)) if data.startswith(_PARQUET) else _from_csv(data)
        return _checked(table, where)
    except (pa.ArrowException, OSError) as error:
        told = (str(error).splitlines() or [type(error).__name__])[0]
        raise CorpusError(where, f"is no file of judgements ({told})", _REMEDY) from error


def _ending(uri: str) -> str:
    ending = uri.rpartition(".")[2].lower()
    if ending not in ("csv", "parquet"):
        raise ConfigError("--to", uri, "name a file that ends with .csv or .parquet")
    return ending


def _rows(pair: Pair, vote: Vote) -> Iterator[dict[str, Any]]:
    row: dict[str, Any] = {name: getattr(pair, name) for name in ("pair_id", "source", "shard", "row", "sample_id")}
    for side in ("first", "second"):
        shown = getattr(pair, side)
        row |= {f"{side}_layer": shown.layer, f"{side}_variant": shown.variant}
        row |= {f"{side}_digest": text_digest(shown.text)}
    when = datetime.fromtimestamp(vote.voted_at, timezone.utc).isoformat(timespec="microseconds")
    row |= {"rater": vote.rater, "kind": vote.kind, "swapped": vote.swapped, "voted_at": when}
    row |= {"seconds": vote.seconds, "reason": _writable(vote.reason), "edit": None}
    for criterion, answer in vote.answers.items():
        yield {**row, "criterion": criterion, "answer": answer}
    for side, text in vote.edits.items():
        yield {**row, "criterion": EDIT, "answer": side, "edit": _writable(text)}


def _writable(text: str) -> str:
    """JSON can hold halves of surrogate pairs, UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()


def _to_csv(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pyarrow.csv.write_csv(_each_text(table, lambda text: "'" + text if _RUNS.match(text) else text), sink)
    return sink.getvalue()


def _from_csv(data: bytes) -> pa.Table:
    reading = pyarrow.csv.ConvertOptions(
        column_types={field.name: field.type for field in JUDGEMENT},
        true_values=["true", "TRUE", "True"],
        false_values=["false", "FALSE", "False"],
    )
    parsing = pyarrow.csv.ParseOptions(newlines_in_values=True)
    table = pyarrow.csv.read_csv(io.BytesIO(data), parse_options=parsing, convert_options=reading)
    return _each_text(table, lambda text: text[1:] if text.startswith("'") and _RUNS.match(text) else text)


def _each_text(table: pa.Table, change: Any) -> pa.Table:
    """The table with every text changed."""
    for number, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            texts = [None if text is None else change(text) for text in table.column(number).to_pylist()]
            table = table.set_column(number, field, pa.array(texts, pa.string()))
    return table


def _with_digests(table: pa.Table) -> pa.Table:
    """With null where it is not told which text was shown: CSV has an empty one there, files of one's own no column."""
    for name in ("first_digest", "second_digest"):
        if name not in table.column_names:
            table = table.append_column(JUDGEMENT.field(name), pa.nulls(table.num_rows, pa.string()))
        number, column = table.column_names.index(name), table[name].cast(pa.string())
        told = pc.if_else(pc.not_equal(column, ""), column, pa.scalar(None, pa.string()))
        table = table.set_column(number, JUDGEMENT.field(name), told)
    return table


def _checked(table: pa.Table, where: str) -> pa.Table:
    table = _with_digests(table)
    if missing := [name for name in JUDGEMENT.names if name not in table.column_names]:
        raise CorpusError(where, f"is no file of judgements: it has no column {missing[0]!r}", _REMEDY)
    is_edit = pc.equal(table["criterion"], EDIT)
    text = pc.fill_null(table["edit"], "")  # CSV does not tell nothing from an empty text
    edit = pc.if_else(is_edit, text, pa.scalar(None, pa.string()))
    table = table.set_column(table.column_names.index("edit"), JUDGEMENT.field("edit"), edit)
    try:
        found = table.select(JUDGEMENT.names).cast(JUDGEMENT)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise CorpusError(where, f"is no file of judgements ({str(error).splitlines()[0]})", _REMEDY) from error
    for name, legal in (("answer", ANSWERS), ("kind", ("person", "model"))):
        if wrong := sorted(set(found[name].unique().to_pylist()) - set(legal)):
            raise CorpusError(where, f"{name} is one of {', '.join(legal)}, not {wrong[0]!r}", _REMEDY)
    return found
