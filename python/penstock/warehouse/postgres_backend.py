"""The warehouse in a PostgreSQL database, through ADBC: rows go there as Arrow, and never through Python."""
# ruff: noqa: S608 - names are our own, and texts are quoted

from __future__ import annotations

import contextlib
import random
import time
import urllib.parse
from concurrent.futures import Future, ThreadPoolExecutor, wait
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

import duckdb

from penstock.errors import MissingExtraError, WarehouseError
from penstock.warehouse.arrow_schema import metadata
from penstock.warehouse.backend import BackendGoneError, CommitUnknownError
from penstock.warehouse.duckdb_backend import DuckDBBackend, quoted
from penstock.warehouse.postgres_errors import (
    explain,
    explain_connection,
    fetched,
    primary,
    state_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock._typing import ArrowStreamExportable
    from penstock.postgres import Postgres

try:
    import adbc_driver_postgresql.dbapi as adbc
    from adbc_driver_manager import Error as AdbcError
except ImportError as missing:
    raise MissingExtraError(
        'a warehouse in PostgreSQL needs its driver, which is not installed: pip install "penstock[postgres]"',
        extra="postgres",
    ) from missing

T = TypeVar("T")

OLDEST = 14
"""The oldest PostgreSQL that is taken."""

KEY = "idempotency_key"
"""By which large temporary tables are looked into."""

LOCKS = 0x70656E73
"""The first half of the numbers of our advisory locks, which are for the whole database."""

_DEFAULTS = {"connect_timeout": "10", "keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "3"}


class PostgresBackend:
    """A connection to a warehouse in PostgreSQL.

    Transactions are begun and ended by statements of our own: the driver's would leave one open between two loads.
    Whatever waits for the server does so in a thread of its own, so that a signal ends it at once, whichever it is: the
    driver itself would swallow Ctrl-C, and keep SIGTERM waiting.

    Args:
        postgres: Where it is.
        read_only: Open it for queries only.
    """

    kind = "postgres"
    order_inserts = True

    def __init__(self, postgres: Postgres, *, read_only: bool = False) -> None:
        """Connect; raises WarehouseError with the reason when that cannot be done."""
        self.place = postgres.place
        self._postgres = postgres
        self._read_only = read_only
        self._open = False
        self._connection: Any = None
        self._cursor: Any = None
        # Reads the rows of a query's result, without pyarrow; used for nothing else.
        self._local = duckdb.connect()
        self._thread = ThreadPoolExecutor(1, "penstock-postgres")
        try:
            self._connect()
        except BaseException:
            self.close()
            raise

    def _connect(self) -> None:
        url = self._postgres.url.get_secret_value()
        given = self._postgres.parameters
        added = {name: value for name, value in _DEFAULTS.items() if name not in given}
        added |= {} if "application_name" in given else {"application_name": "penstock"}
        url += ("&" if "?" in url else "?") + urllib.parse.urlencode(added)
        made = self._thread.submit(lambda: adbc.connect(url, autocommit=True))
        try:
            self._connection = made.result()
        except AdbcError as error:
            raise explain_connection(self.place, error) from None
        except BaseException:
            # A signal: nobody waits for the connection, which ends by itself or is made after all.
            made.add_done_callback(lambda done: None if done.exception() else done.result().close())
            raise
        try:
            self._cursor = self._connection.cursor()
            self._prepare()
        except BaseException:
            self._disconnect()
            raise

    def _prepare(self) -> None:
        """See that the server is one that we know, and set what holds for the whole connection."""
        ((version, schema),) = self.rows(
            "SELECT current_setting('server_version_num')::int, "
            "(SELECT CASE WHEN has_schema_privilege(oid, 'USAGE') THEN 1 ELSE 2 END FROM pg_namespace "
            f"WHERE nspname = {quoted(self._postgres.schema_)})"
        )
        if version < OLDEST * 10_000:
            raise WarehouseError(
                f"warehouse {self.place}: PostgreSQL {version // 10_000} is too old; {OLDEST} or newer"
            )
        if schema == 2:
            raise WarehouseError(
                f"warehouse {self.place}: permission denied for schema {self._postgres.schema_}; the user needs more "
                "rights: see the roles in the guide to PostgreSQL"
            )
        if schema is None:
            name = self._postgres.schema_
            raise WarehouseError(
                f'warehouse {self.place}: there is no schema {name}. Make it (CREATE SCHEMA "{name}"), or name another '
                "one in warehouse.postgres.schema"
            )
        limits = self._postgres
        self.script(
            f"""
            SET search_path = "{limits.schema_}";
            SET TimeZone = 'UTC';
            SET client_min_messages = 'warning';
            SET standard_conforming_strings = on;
            SET statement_timeout = {limits.statement_timeout // 1_000};
            SET lock_timeout = {limits.lock_timeout // 1_000};
            -- A client that is killed is noticed in the middle of a statement, and one whose machine is gone within two
            -- minutes; its lock is given back then. One that only hangs is thrown out after an hour.
            SET client_connection_check_interval = '1s';
            SET tcp_keepalives_idle = 60;
            SET tcp_keepalives_interval = 10;
            SET tcp_keepalives_count = 6;
            SET idle_in_transaction_session_timeout = '1h';
            """
            + ("SET default_transaction_read_only = on;" if self._read_only else "")
        )

    def _disconnect(self) -> None:
        self._open = False
        for part in (self._cursor, self._connection):
            if part is not None:
                with contextlib.suppress(AdbcError):
                    part.close()
        self._cursor = self._connection = None

    def reopen(self, give_up: float) -> None:
        """Connect again after the connection was lost, trying for so many seconds."""
        self._disconnect()
        deadline = time.monotonic() + give_up
        pause = 0.05
        while True:
            try:
                return self._connect()
            except BackendGoneError:
                if time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret: it keeps clients apart
            pause = min(2 * pause, 2.0)

    def begin(self, lock: str = "") -> None:
        """Start the transaction, and wait for the lock of this name; it is held until the transaction ends."""
        name = quoted(f"{self._postgres.schema_}/{lock}")
        waits = f"SELECT pg_advisory_xact_lock({LOCKS}, hashtext({name}));" if lock else ""
        self._open = True
        try:
            self.script(f"BEGIN; SET LOCAL work_mem = '256MB'; {waits}")
        except BaseException:
            self.rollback()
            raise

    def commit(self) -> None:
        """Make everything since `begin` durable and visible, all at once.

        Raises:
            CommitUnknownError: The connection was lost before the answer came.
        """
        self._open = False
        try:
            self._wait(lambda: self._cursor.execute("COMMIT"))
        except AdbcError as error:
            found = explain(self.place, error)
            if isinstance(found, BackendGoneError):
                raise CommitUnknownError(
                    f"warehouse {self.place}: the connection was lost in the middle of COMMIT ({primary(error)}), and "
                    "whether it was done is not known. Run this again: it finds out, and goes on"
                ) from None
            raise found from None

    def rollback(self) -> None:
        """Undo everything since `begin`; does nothing outside a transaction."""
        if self._open:
            self._open = False
            # On a connection that was lost the server does it by itself; the first error is the one to show.
            with contextlib.suppress(AdbcError, BackendGoneError):
                self._wait(lambda: self._cursor.execute("ROLLBACK"))

    def cancel(self) -> None:
        """End the statement that another thread waits for, if it waits for one."""
        with contextlib.suppress(AdbcError):
            if self._cursor is not None:
                self._cursor.adbc_cancel()

    def close(self) -> None:
        """Close the connection, undoing what was not committed."""
        self.rollback()
        self._disconnect()
        self._local.close()
        self._thread.shutdown(wait=False)

    def _wait(self, work: Callable[[], T]) -> T:
        """Let the thread do what waits for the server; an exception that a signal raises here cancels it."""
        if self._cursor is None:
            raise BackendGoneError(f"warehouse {self.place}: the connection was lost")
        future = self._thread.submit(work)
        try:
            return future.result()
        finally:
            self._cancel(future)

    def _cancel(self, future: Future[Any]) -> None:
        while not future.done():
            # Once may not be enough: the statement may not have come to the server yet.
            with contextlib.suppress(AdbcError):
                self._cursor.adbc_cancel()
            wait([future], timeout=0.1)

    def _run(self, work: Callable[[], T]) -> T:
        try:
            return self._wait(work)
        except AdbcError as error:
            # The driver's error holds the statement and values: not even the chain of errors shows it.
            raise explain(self.place, error, alive=not state_of(error) and self._alive()) from None

    def script(self, sql: str) -> None:
        """Run the statements of a file."""
        self._run(lambda: self._cursor.executescript(sql))

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a query whose result is small."""
        try:
            numbers, found = self._run(lambda: self._fetch(sql))
        except duckdb.Error as error:
            raise fetched(self.place, error, alive=self._alive()) from None
        if not any(numbers):
            return found
        return [
            tuple(Decimal(value) if n and value is not None else value for n, value in zip(numbers, row, strict=True))
            for row in found
        ]

    def _fetch(self, sql: str) -> tuple[list[bool], list[tuple[Any, ...]]]:
        self._cursor.execute(sql)
        stream = self._cursor.fetch_arrow()
        # PostgreSQL's numbers without bounds come as text, and say what they are.
        numbers = [b"numeric" in told.get(b"ARROW:extension:metadata", b"") for told in metadata(stream)]
        self._local.register("fetched", stream)
        try:
            return numbers, self._local.execute("SELECT * FROM fetched").fetchall()
        finally:
            self._local.unregister("fetched")

    def _alive(self) -> bool:
        try:
            self._wait(lambda: self._cursor.executescript("SELECT 1"))
        except AdbcError as error:
            return state_of(error) == "25P02"  # it waits for the end of a transaction that has failed
        return True

    def change(self, sql: str) -> int:
        """Run INSERT, UPDATE or DELETE; returns how many rows it touched."""

        def changes() -> int:
            self._cursor.execute(sql)
            return int(self._cursor.rowcount)

        return self._run(changes)

    def temporary(self, name: str, query: str) -> None:
        """Make a temporary table out of a query on this warehouse."""
        self.drop(name)
        self.script(f"CREATE TEMPORARY TABLE {name} AS {query}")
        # Without statistics the planner takes it for small, and joins row by row. It may do so with them, when it takes
        # what is left of another table for small: then an index keeps that from being rows times rows.
        if KEY in self.columns(name):
            self.script(f"CREATE INDEX ON pg_temp.{name} ({KEY})")
        self.script(f"ANALYZE pg_temp.{name}")

    def stage(self, name: str, query: str, files: list[tuple[str, int]], view: str) -> None:
        """Make a temporary table out of a query on Parquet files, run by a DuckDB in memory."""
        with contextlib.closing(DuckDBBackend(":memory:")) as reader:
            reader.place = self.place
            reader.stage("chosen", query, files, view)
            columns = ", ".join(_plain(column, kind) for column, kind, *_ in reader.rows("DESCRIBE chosen"))
            self.put_arrow(name, reader.arrow(f"SELECT {columns} FROM chosen"))

    def drop(self, *names: str) -> None:
        """Drop temporary tables, where they exist."""
        self.script(f"DROP TABLE IF EXISTS {', '.join(f'pg_temp.{name}' for name in names)}")

    def arrow(self, query: str) -> ArrowStreamExportable:
        """Run a query and hand out its rows as Arrow; timestamps with a time zone come as UTC."""

        def opens() -> ArrowStreamExportable:
            self._cursor.execute(query)
            stream: ArrowStreamExportable = self._cursor.fetch_arrow()
            return stream

        return self._run(opens)

    def put_arrow(self, name: str, data: ArrowStreamExportable) -> None:
        """Make a temporary table out of Arrow data."""
        self.drop(name)
        self._run(lambda: self._cursor.adbc_ingest(name, data, mode="create", temporary=True))
        self.script(f"ANALYZE pg_temp.{name}")

    def columns(self, table: str) -> list[str]:
        """Names of a table's columns in their order; empty when there is no such table."""
        found = self.rows(
            f"SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass({quoted(table)}) AND attnum > 0 "
            "AND NOT attisdropped ORDER BY attnum"
        )
        return [name for (name,) in found]


def _plain(column: str, kind: str) -> str:
    """A column of DuckDB as PostgreSQL can take it."""
    name = '"' + column.replace('"', '""') + '"'
    value = name
    if kind == "VARCHAR":
        # PostgreSQL has no text with the character 0.
        value = f"replace({name}, chr(0), chr(65533))"
    elif kind in ("HUGEINT", "UHUGEINT", "UBIGINT"):
        value = f"CAST({name} AS DECIMAL(38, 0))"
    elif kind in ("TINYINT", "UTINYINT", "USMALLINT", "UINTEGER"):
        value = f"CAST({name} AS BIGINT)"
    elif kind.startswith("TIMESTAMP_"):
        value = f"CAST({name} AS TIMESTAMP)"
    elif kind.endswith("]") or kind.startswith(("STRUCT", "MAP", "UNION")):
        value = f"CAST(to_json({name}) AS VARCHAR)"
    elif kind.startswith("ENUM") or kind in ("UUID", "JSON"):
        value = f"CAST({name} AS VARCHAR)"
    # Statements name columns without quotes.
    return f"{value} AS {name.lower()}"
