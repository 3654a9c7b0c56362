"""Votes as a table that others can read: schema JUDGEMENT, in a CSV or a Parquet file."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from vila2_ray.corpus.shardfiles import conform
from vila2_ray.errors import CorpusError
from vila2_ray.schema import JUDGEMENT
from vila2_ray.storage import Store, split_uri

_MAGIC = b"PAR1"
_NULLS = pyarrow.csv.ConvertOptions(
    column_types={field.name: field.type for field in JUDGEMENT}, strings_can_be_null=True, null_values=[""]
)
_LINES = pyarrow.csv.ParseOptions(newlines_in_values=True)


def read_judgements(uri: str) -> pa.Table:
    """The votes and edits of an exported file (schema JUDGEMENT). Raises CorpusError for a file that holds none."""
    folder, name = split_uri(uri)
    data = Store(folder).read_bytes(name)
    try:
        if data.startswith(_MAGIC):
            table = pyarrow.parquet.read_table(io.BytesIO(data))
        else:
            table = pyarrow.csv.read_csv(io.BytesIO(data), parse_options=_LINES, convert_options=_NULLS)
    except pa.ArrowInvalid as error:
        problem = f"neither a CSV nor a Parquet file of judgements ({error})"
        raise CorpusError(uri, problem, "Write one with vila2 judge export") from error
    if "reason" in table.column_names and table["reason"].null_count:  # in CSV nothing is nothing
        reasons = pa.array([reason or "" for reason in table["reason"].to_pylist()], pa.string())
        table = table.set_column(table.schema.get_field_index("reason"), "reason", reasons)
    return conform(table, JUDGEMENT, uri)
