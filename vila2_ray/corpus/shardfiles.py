"""One Parquet file per shard, with what is constant for it in its metadata: what layers and verdicts are made of."""

from __future__ import annotations

import hashlib
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from vila2_ray.errors import CorpusError
from vila2_ray.storage import Store

if TYPE_CHECKING:
    import pandas as pd


_DIGEST = "rows_sha256"


class ShardFiles:
    """`<source>/<shard>.parquet` below a folder; rows in shard order, variants of a sample next to each other."""

    schema: pa.Schema

    def __init__(self, store: Store) -> None:
        self.store = store

    def path(self, source: str, shard: str) -> str:
        """Name of the shard's file in `store`."""
        return f"{source}/{shard}.parquet"

    def has(self, source: str, shard: str) -> bool:
        return self.store.exists(self.path(source, shard))

    def shards(self, source: str | None = None) -> list[tuple[str, str]]:
        """(source, shard) of every file, by one listing."""
        names = self.store.list(prefix=source or "", suffix=".parquet")
        pairs = [tuple(name[: -len(".parquet")].split("/", 1)) for name in names if "/" in name]
        return [(pair[0], pair[1]) for pair in pairs]

    def read(self, source: str, shard: str, columns: list[str] | None = None) -> pa.Table:
        """The shard's rows, in shard order."""
        return self.store.read_table(self.path(source, shard), columns)

    def metadata(self, source: str, shard: str) -> dict[str, str]:
        """What is constant for the shard's file."""
        return self.store.read_metadata(self.path(source, shard))

    def write(self, source: str, shard: str, table: pa.Table, metadata: dict[str, str] | None = None) -> None:
        """Replace the shard's file. Raises CorpusError when the rows are of another shard or out of order."""
        where = self.store.path(self.path(source, shard))
        table = conform(table, self.schema, where)
        self._check(table, source, shard, where)
        self.store.write_table(self.path(source, shard), table, {**(metadata or {}), _DIGEST: table_digest(table)})

    def _check(self, table: pa.Table, source: str, shard: str, where: str) -> None:
        check_rows(table, source, shard, where)

    def digest(self) -> str:
        """SHA-256 over the rows of all shards; what is told about how they were made does not enter."""
        shards = self.shards()
        with ThreadPoolExecutor(16) as pool:
            digests = list(pool.map(lambda pair: self.metadata(*pair)[_DIGEST], shards))
        return hashlib.sha256(json.dumps([shards, digests]).encode()).hexdigest()

    def to_table(self, columns: list[str] | None = None) -> pa.Table:
        """All shards after each other."""
        wanted = self.schema if columns is None else pa.schema([self.schema.field(name) for name in columns])
        tables = [self.read(source, shard, columns).cast(wanted) for source, shard in self.shards()]
        return pa.concat_tables(tables) if tables else wanted.empty_table()

    def to_pandas(self, columns: list[str] | None = None) -> pd.DataFrame:
        return self.to_table(columns).to_pandas()


def table_digest(table: pa.Table) -> str:
    """SHA-256 over the values of a table, whatever chunks or file they lie in."""
    digest = hashlib.sha256()
    for name, column in zip(table.column_names, table.columns, strict=True):
        digest.update(json.dumps([name, column.to_pylist()]).encode())
    return digest.hexdigest()


def conform(table: pa.Table, schema: pa.Schema, path: str) -> pa.Table:
    """`table` with exactly the columns and types of `schema`. Raises CorpusError naming `path` when it cannot be."""
    try:
        return table.select(schema.names).cast(schema)
    except (KeyError, pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise CorpusError(path, f"rows are not of the expected columns ({error})") from error


def check_rows(table: pa.Table, source: str, shard: str, path: str) -> None:
    """Raises CorpusError unless all rows are of this shard and (row, variant) strictly increases."""
    if set(table["source"].unique().to_pylist()) - {source} or set(table["shard"].unique().to_pylist()) - {shard}:
        raise CorpusError(path, "holds rows of another shard")
    order = order_of(table)
    if any(after <= before for before, after in itertools.pairwise(order)):
        raise CorpusError(path, "rows are out of order or twice there")


def order_of(table: pa.Table) -> list[tuple[Any, Any]]:
    return list(zip(table["row"].to_pylist(), table["variant"].to_pylist(), strict=True))
