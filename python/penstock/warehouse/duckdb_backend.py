"""The warehouse in a DuckDB file."""
# ruff: noqa: S608 - names are our own, and paths are quoted

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from penstock import damage
from penstock.errors import DataError, WarehouseError, WrongWarehouseError
from penstock.warehouse.backend import BusyError

if TYPE_CHECKING:
    from penstock._typing import ArrowStreamExportable


def quoted(text: str) -> str:
    """A string as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def parquet(paths: list[str]) -> str:
    """A DuckDB table function over Parquet files; columns that some files lack are null there."""
    listed = ", ".join(quoted(path) for path in paths)
    return f"read_parquet([{listed}], hive_partitioning = false, union_by_name = true, filename = true)"


def _first(error: duckdb.Error) -> str:
    """What DuckDB says, without the statement."""
    return str(error).split("\n\nLINE ", maxsplit=1)[0]


def _holder(text: str) -> str:
    """Which process has the file open, as far as can be known: its number, and what it is called."""
    found = re.search(r"held in (.+?) \(PID (\d+)\)", text) or re.search(r"()PID (\d+)", text)
    if found is None:
        return ""
    program, number = Path(found[1]).name, found[2]
    # Of Python one wants to know what it runs. Further arguments may be secrets.
    with contextlib.suppress(OSError, UnicodeDecodeError):
        words = Path(f"/proc/{number}/cmdline").read_text(encoding="utf-8").split("\0")
        run = next((word for word in words[1:] if Path(word).name in ("penstock", "dbt", "airflow")), None)
        program = program if run is None else Path(run).name
    return f" (process {number}{f', {program}' if program else ''})"


def _explain(path: str, error: duckdb.Error) -> WarehouseError:
    """Say what is wrong with a file that DuckDB cannot open."""
    text = str(error)
    file = Path(path)
    if "lock" in text.lower():
        who = _holder(text)
        return BusyError(
            f"warehouse {path}: another process{who} has it open; DuckDB lets one process write. Close it, or wait, "
            "and run this again"
        )
    kind: type[WarehouseError] = WrongWarehouseError
    if "not a valid DuckDB" in text:
        reason = "this file is not a DuckDB database. Name another one (`warehouse.duckdb` in the pipeline file)"
    elif file.is_dir():
        reason = "this is a folder, not a file. Name a file in it (`warehouse.duckdb` in the pipeline file)"
    elif not file.parent.is_dir():
        # It may be a disk that is not there yet.
        kind = WarehouseError
        reason = (
            f"there is no folder {file.parent}. Make it, or name another file (`warehouse.duckdb` in the pipeline file)"
        )
    elif not os.access(file if file.exists() else file.parent, os.W_OK):
        reason = "no permission to write here"
    elif "newer version" in text or "storage version" in text.lower():
        reason = f"it was written by a newer DuckDB than {duckdb.__version__}. Upgrade duckdb"
    else:
        kind, reason = WarehouseError, text
    return kind(f"warehouse {path}: {reason}")


class DuckDBBackend:
    """A connection to a warehouse in a DuckDB file.

    Args:
        path: The file; made when it does not exist.
        read_only: Open it for queries only; the file must exist then.
    """

    kind = "duckdb"
    order_inserts = False

    def __init__(self, path: str | Path, *, read_only: bool = False) -> None:
        """Open the file; raises WarehouseError with the reason when it cannot be opened."""
        self.place = str(path)
        if read_only and not Path(path).exists():
            raise WarehouseError(f"warehouse {path}: there is no such file. Run `penstock load` first")
        try:
            self.connection = duckdb.connect(self.place, read_only=read_only)
        except duckdb.Error as error:
            raise _explain(self.place, error) from None
        self._open = False
        # Times in the warehouse are UTC, wherever the process runs.
        self.connection.execute("SET TimeZone = 'UTC'")
        self.connection.execute("SET preserve_insertion_order = false")

    def reopen(self, give_up: float) -> None:
        """A file is not lost as a connection is; there is nothing to do."""

    def begin(self, lock: str = "") -> None:  # noqa: ARG002 - that of the file is enough
        """Start the transaction; the file's own lock already keeps other processes out."""
        self.connection.execute("BEGIN")
        self._open = True

    def commit(self) -> None:
        """Make everything since `begin` durable and visible, all at once."""
        try:
            self.connection.execute("COMMIT")
        except duckdb.Error as error:
            raise WarehouseError(
                f"warehouse {self.place}: the load could not be committed, nothing of it stays: {error}"
            ) from None
        finally:
            self._open = False

    def rollback(self) -> None:
        """Undo everything since `begin`; does nothing outside a transaction."""
        if self._open:
            self._open = False
            # DuckDB has already rolled back what failed fatally; the first error is the one to show.
            with contextlib.suppress(duckdb.Error):
                self.connection.execute("ROLLBACK")

    def cancel(self) -> None:
        """End the statement that another thread waits for, if it waits for one."""
        self.connection.interrupt()

    def close(self) -> None:
        """Close the connection, undoing what was not committed."""
        self.rollback()
        self.connection.close()

    def _run(self, sql: str) -> duckdb.DuckDBPyConnection:
        try:
            return self.connection.execute(sql)
        except duckdb.BinderException as error:
            raise DataError(
                f"warehouse {self.place}: the tables or files have not the columns expected: {_first(error)}"
            ) from error
        except (duckdb.ConstraintException, duckdb.ConversionException, duckdb.OutOfRangeException) as error:
            raise DataError(f"warehouse {self.place}: {_first(error)}") from error
        except duckdb.InterruptException as error:
            raise KeyboardInterrupt from error
        except duckdb.Error as error:
            told = damage.meaning(error, re.findall(r"[^\s'\"]+\.parquet", _first(error)))
            if told is not None:
                raise told from error
            raise WarehouseError(f"warehouse {self.place}: {_first(error)}") from error
        except RuntimeError as error:
            # So newer versions of DuckDB say that Ctrl-C came in the middle of a statement.
            if "interrupted" not in str(error).lower():
                raise
            raise KeyboardInterrupt from error

    def script(self, sql: str) -> None:
        """Run the statements of a file."""
        self._run(sql)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a query whose result is small."""
        return self._run(sql).fetchall()

    def change(self, sql: str) -> int:
        """Run INSERT, UPDATE or DELETE; returns how many rows it touched."""
        counted = self._run(sql).fetchone()
        return int(counted[0]) if counted else 0

    def temporary(self, name: str, query: str) -> None:
        """Make a temporary table out of a query on this warehouse."""
        self.drop(name)
        self._run(f"CREATE TEMP TABLE {name} AS {query}")

    def stage(self, name: str, query: str, files: list[tuple[str, int]], view: str) -> None:
        """Make a temporary view out of a query on Parquet files: DuckDB reads them when the view is used."""
        self.drop(name, view)
        if any("://" in path for path, _ in files):
            from penstock.filesystem import enable

            enable(self.connection, [path for path, _ in files])
        self._run("CREATE OR REPLACE TEMP TABLE lake_files (filename TEXT, lake_file BIGINT)")
        numbered = ", ".join(f"({quoted(path)}, {number})" for path, number in files)
        self._run(f"INSERT INTO lake_files VALUES {numbered}")
        self._run(
            f"CREATE OR REPLACE TEMP VIEW {view} AS "
            f"SELECT * FROM {parquet([path for path, _ in files])} JOIN lake_files USING (filename)"
        )
        self._run(f"CREATE OR REPLACE TEMP VIEW {name} AS {query}")

    def drop(self, *names: str) -> None:
        """Drop temporary tables and views, where they exist."""
        listed = ", ".join(quoted(name) for name in names)
        found = self._run(
            f"SELECT 'VIEW', view_name FROM duckdb_views() WHERE temporary AND view_name IN ({listed}) "
            f"UNION ALL SELECT 'TABLE', table_name FROM duckdb_tables() WHERE temporary AND table_name IN ({listed})"
        ).fetchall()
        for kind, name in found:
            self._run(f"DROP {kind} temp.{name}")

    def arrow(self, query: str) -> ArrowStreamExportable:
        """Run a query and hand out its rows as Arrow; timestamps with a time zone come as UTC."""
        self._run(f"CREATE OR REPLACE TEMP TABLE handed_out AS {query}")
        relation: ArrowStreamExportable = self.connection.table("temp.handed_out")
        return relation

    def put_arrow(self, name: str, data: ArrowStreamExportable) -> None:
        """Make a temporary table out of Arrow data."""
        self.connection.register("handed_in", data)
        try:
            self.temporary(name, "SELECT * FROM handed_in")
        finally:
            self.connection.unregister("handed_in")

    def columns(self, table: str) -> list[str]:
        """Names of a table's columns in their order; empty when there is no such table."""
        found = self._run(
            f"SELECT column_name FROM duckdb_columns() WHERE table_name = {quoted(table)} "
            "AND database_name IN (current_database(), 'temp') ORDER BY column_index"
        ).fetchall()
        return [name for (name,) in found]
