"""Reading a lake, and writing Parquet."""

from __future__ import annotations

import functools
import json
import os
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from penstock import _core, damage
from penstock._html import escape
from penstock.errors import LakeError, WrongLakeError
from penstock.nearest import did_you_mean
from penstock.table import arrow, names, needs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import duckdb
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from penstock._typing import ArrowLike
    from penstock.storage import Storage

_Rows = TypeVar("_Rows")

TRASH = "_penstock/trash"
"""Where removed files lie for an hour."""

LAYERS = ("bronze/events", "silver/events", "silver/sessions", "dead_letters", "settled")
"""The layers that every lake may have; windows stand under `gold/`."""


# The path holds a date, and in Bronze the event type, which the files themselves do not.
_READ = """
    SELECT * FROM read_parquet(?, union_by_name = true, hive_partitioning = true, hive_types_autocast = false,
                               hive_types = {'date': DATE})
"""
_READ_BY_TYPE = _READ.replace("DATE}", "DATE, 'event_type': VARCHAR}")


class LakeTable:
    """The committed rows of one layer, as the log had them when it was read. Reads files when rows are asked for.

    Any Arrow library takes it as it is, in batches: memory follows the batch, not the layer.
    """

    def __init__(
        self,
        lake: str,
        layer: str,
        files: list[dict[str, Any]],
        columns: list[str] | None,
        storage: Storage | None = None,
    ) -> None:
        self.lake = lake
        self._storage = storage
        self.layer = layer
        self._files = files
        self._columns = columns

    @property
    def files(self) -> list[str]:
        """The data files, as paths; those of a bucket as `s3://…`.

        One on disk that was removed since the log was read lies in the trash for an hour, and is named there.
        """
        return [place(self.lake, file["path"]) for file in self._files]

    def _readable(self, connection: duckdb.DuckDBPyConnection) -> list[str]:
        """The data files as this connection can read them: those of a bucket through the engine."""
        if not is_bucket(self.lake):
            return self.files
        from penstock.filesystem import enable, opened
        from penstock.storage import Storage

        bucket = opened(self.lake, Storage.of(self._storage))
        files = [bucket.path(file["path"]) for file in self._files]
        enable(connection, files)
        return files

    @property
    def num_rows(self) -> int:
        """How many rows there are, by the log."""
        return sum(int(file["rows"]) for file in self._files)

    def __len__(self) -> int:
        return self.num_rows

    def to_duckdb(self, connection: duckdb.DuckDBPyConnection | None = None) -> duckdb.DuckDBPyRelation:
        """The rows as a DuckDB relation, to filter and join before anything is read.

        Args:
            connection: Where the relation lives; a new one in memory unless given.

        Raises:
            LakeError: The layer has no rows yet, so that its columns are not known.
        """
        import duckdb

        if not self._files:
            raise LakeError(f"lake {self.lake}: {self.layer} has no committed rows yet, so its columns are not known")
        if connection is None:
            connection = _own()
            if not _relations_keep_their_connection():
                _KEPT.append(connection)
        query = _READ_BY_TYPE if any("/event_type=" in file["path"] for file in self._files) else _READ
        files = self._readable(connection)
        try:
            relation = connection.from_query(query, params=[files])
        except duckdb.Error as error:
            told = damage.meaning(error, files)
            if told is None:
                raise
            raise told from error
        if self._columns is None:
            return relation
        unknown = [name for name in self._columns if name not in relation.columns]
        if unknown:
            hint = did_you_mean(unknown[0], relation.columns)
            raise LakeError(f"lake {self.lake}: {self.layer} has no column {unknown[0]!r}; {hint}")
        return relation.select(*(duckdb.ColumnExpression(name) for name in self._columns))

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        own = _own()
        return self.to_duckdb(own).__arrow_c_stream__(requested_schema)

    def to_pyarrow(self) -> pa.Table:
        """The rows as a `pyarrow.Table`."""
        return self._whole(lambda: needs("pyarrow", "to_pyarrow").table(self))

    def to_polars(self) -> pl.DataFrame:
        """The rows as a `polars.DataFrame`."""
        return self._whole(lambda: needs("polars", "to_polars").DataFrame(self))

    def to_pandas(self) -> pd.DataFrame:
        """The rows as a `pandas.DataFrame`."""
        needs("pandas", "to_pandas")
        own = _own()
        return self._whole(lambda: self.to_duckdb(own).df())

    def _whole(self, read: Callable[[], _Rows]) -> _Rows:
        """Read everything; once more where a file was moved to the trash meanwhile."""
        while True:
            before = self.files
            try:
                return read()
            except Exception as error:
                if self.files == before:
                    told = damage.meaning(error, [] if is_bucket(self.lake) else before)
                    if told is None:
                        raise
                    raise told from error

    def __repr__(self) -> str:
        return f"penstock.LakeTable({self.lake} {self.layer}: {self.num_rows:,} rows in {len(self._files):,} files)"

    def _repr_html_(self) -> str:
        title = f"<p><b>{escape(self.layer)}</b>: {self.num_rows:,} rows in {len(self._files):,} files</p>"
        if not self._files:
            return title
        import duckdb

        def shown() -> tuple[list[str], list[tuple[str | None, ...]]]:
            rows = self.to_duckdb(own).limit(10)
            # As text: DuckDB's own way to Python objects needs pytz for times with a zone.
            text = rows.select(*(duckdb.ColumnExpression(name).cast("VARCHAR").alias(name) for name in rows.columns))
            return text.columns, text.fetchall()

        own = _own()
        names, rows = self._whole(shown)
        head = "".join(f"<th>{escape(name)}</th>" for name in names)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape('' if value is None else value[:80])}</td>" for value in row) + "</tr>"
            for row in rows
        )
        return f"{title}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _own() -> duckdb.DuckDBPyConnection:
    """A connection for one relation."""
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    return connection


_KEPT: deque[duckdb.DuckDBPyConnection] = deque(maxlen=32)
"""The newest connections of relations that do not keep theirs."""


@functools.cache
def _relations_keep_their_connection() -> bool:
    """Whether a relation holds the connection that it lives in, as it does from some DuckDB 1.x on."""
    import duckdb

    relation = duckdb.connect().sql("SELECT 1")
    try:
        relation.fetchall()
    except duckdb.ConnectionException:
        return False
    return True


def is_bucket(lake: str | os.PathLike[str]) -> bool:
    """Whether a lake is a bucket, and no folder."""
    return "://" in os.fspath(lake) and not os.fspath(lake).startswith("file://")


def _reached(storage: Storage | Mapping[str, Any] | None) -> Storage | None:
    """How a bucket is reached, where anything is said of it: the library of settings is imported for that alone."""
    if storage is None:
        return None
    from penstock.storage import Storage

    return Storage.of(storage)


def _for_engine(storage: Storage | None) -> dict[str, Any]:
    return {} if storage is None else storage.for_engine()


def place(lake: str, path: str) -> str:
    """Where a data file lies: its path on disk (in the trash, when it was removed within the last hour), or its URL."""
    if is_bucket(lake):
        return f"{lake.rstrip('/')}/{path}"
    root = Path(lake.removeprefix("file://"))
    moved = root / TRASH / path
    return str(moved if not (root / path).exists() and moved.exists() else root / path)


def _windows(place: str, storage: Storage | None) -> list[str]:
    """The names of the tables of windows that a lake has."""
    if is_bucket(place):
        found = _core.LakeObjects(place, **_for_engine(storage)).list("gold")
        return sorted({"/".join(path.split("/")[:2]) for path, _ in found})
    there = Path(place.removeprefix("file://")) / "gold"
    return sorted(f"gold/{path.name}" for path in there.iterdir()) if there.is_dir() else []


def layer_name(lake: str, layer: str) -> str:
    """The name of a layer.

    Raises:
        WrongLakeError: No lake has a layer of this name.
    """
    name = layer.strip("/")
    if name not in LAYERS and not name.startswith("gold/"):
        raise WrongLakeError(f"lake {lake}: {layer!r} is no layer; {did_you_mean(name, [*LAYERS, 'gold/<window>'])}")
    return name


def read_lake(
    lake: str | os.PathLike[str],
    layer: str = "silver/events",
    *,
    pipeline: str | None = None,
    columns: list[str] | None = None,
    storage: Storage | Mapping[str, Any] | None = None,
) -> LakeTable:
    """Read a layer of a lake: exactly the committed rows, whatever a run is writing meanwhile.

    Args:
        lake: The lake's folder, or `s3://bucket/prefix`.
        layer: `bronze/events`, `silver/events`, `silver/sessions`, `dead_letters`, `settled` or `gold/<window>`.
        pipeline: Rows of this pipeline only, where several write to one lake.
        columns: These columns only.
        storage: How the bucket is reached, as `storage` in a pipeline file; the environment counts where it is silent.

    Raises:
        LakeError: The lake or the layer is not there.
        SettingsError: A setting of `storage` is wrong.
    """
    place = os.fspath(lake)
    name = layer_name(place, layer)
    reached = _reached(storage)
    files = json.loads(_core.read_lake(place, name, pipeline=pipeline, **_for_engine(reached)))
    if not files and name.startswith("gold/"):
        windows = _windows(place, reached)
        if name not in windows:
            raise LakeError(f"lake {place}: there is no {name} yet; {did_you_mean(name, windows)}")
    return LakeTable(place, name, files, None if columns is None else names(columns, "columns"), reached)


def write_parquet(
    rows: ArrowLike,
    path: str | os.PathLike[str],
    *,
    partition_by: str | list[str] | None = None,
    name: str | None = None,
    replace: bool = False,
    storage: Storage | Mapping[str, Any] | None = None,
) -> list[str]:
    """Write rows as Parquet files (zstd, dictionaries, statistics, page index) into a folder, by partition.

    Args:
        rows: Any Arrow table; memory follows the batch.
        path: The folder, or `s3://bucket/prefix`.
        partition_by: Columns whose values become folders (`date=2024-12-17/`); percent-encoded, so no value can choose
            a path. As with Hive and Spark, null and '' share a folder (`__HIVE_DEFAULT_PARTITION__`): both are read as
            null.
        name: How file names begin.
        replace: Remove the Parquet files that the folders written to had before, instead of refusing a name that is
            taken.
        storage: How the bucket is reached, as `storage` in a pipeline file; the environment counts where it is silent.

    Returns:
        The files' paths below `path`.

    Raises:
        DataError: A column of `partition_by` is missing or cannot be one.
        LakeError: The folder cannot be written, or a file is there already.
    """
    return _core.write_parquet(
        arrow(rows, "rows"),
        path,
        partition_by=names(partition_by, "partition_by"),
        name=name,
        replace=replace,
        **_for_engine(_reached(storage)),
    )
