"""The warehouse in a PostgreSQL database, through ADBC: rows go there as Arrow, and never through Python."""
# ruff: noqa: S608 - names are our own, and texts are quoted

from __future__ import annotations

import contextlib
import random
import tempfile
import threading
import time
import urllib.parse
from concurrent.futures import Future, wait
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

import duckdb

from penstock.errors import DataError, MissingExtraError, WrongWarehouseError
from penstock.postgres import Postgres
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
from penstock.warehouse.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock._typing import ArrowStreamExportable

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

PATIENCE = 5.0
"""For so many seconds a server may take to cancel a statement; after that the connection is given up."""

_DEFAULTS = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    # Rows on their way that nobody acknowledges: keepalives do not look at them.
    "tcp_user_timeout": "30000",
}


_LIMITS = {
    "statement_timeout": f"{Postgres.model_fields['statement_timeout'].default // 1_000}ms",
    "lock_timeout": f"{Postgres.model_fields['lock_timeout'].default // 1_000}ms",
    # A client that only hangs is thrown out.
    "idle_in_transaction_session_timeout": "1h",
}
"""Limits of a connection, where nobody has set others."""


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
        self._local.execute("SET TimeZone = 'UTC'")
        self._thread = Worker("penstock-postgres")
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
        ((version, encoding, schema, *limits),) = self.rows(
            "SELECT current_setting('server_version_num')::int, current_setting('server_encoding'), "
            "(SELECT CASE WHEN has_schema_privilege(oid, 'USAGE') THEN 1 ELSE 2 END FROM pg_namespace "
            f"WHERE nspname = {quoted(self._postgres.schema_)}), "
            + ", ".join(f"(SELECT setting::bigint FROM pg_settings WHERE name = '{name}')" for name in _LIMITS)
        )
        if version < OLDEST * 10_000:
            raise WrongWarehouseError(
                f"warehouse {self.place}: PostgreSQL {version // 10_000} is too old; {OLDEST} or newer"
            )
        if encoding == "SQL_ASCII":
            raise WrongWarehouseError(
                f"warehouse {self.place}: its database has no encoding (SQL_ASCII), so that it cannot tell characters "
                "from bytes. Make one WITH ENCODING 'UTF8'"
            )
        if schema == 2:
            raise WrongWarehouseError(
                f"warehouse {self.place}: permission denied for schema {self._postgres.schema_}; the user needs more "
                "rights: see the roles in the guide to PostgreSQL"
            )
        if schema is None:
            name = self._postgres.schema_
            raise WrongWarehouseError(
                f'warehouse {self.place}: there is no schema {name}. Make it (CREATE SCHEMA "{name}"), or name another '
                "one in warehouse.postgres.schema"
            )
        # What the URL, the role or the database says stands, unless the pipeline file says otherwise.
        ours = {name: limit for (name, limit), held in zip(_LIMITS.items(), limits, strict=True) if not held}
        ours |= {
            name: f"{micros // 1_000}ms"
            for name in _LIMITS
            if name in self._postgres.model_fields_set and (micros := getattr(self._postgres, name))
        }
        limit = "".join(f"SET {name} = '{value}';" for name, value in ours.items())
        self.script(
            f"""
            -- The driver sends and reads nothing else, whatever the database or PGCLIENTENCODING says.
            SET client_encoding = 'UTF8';
            SET search_path = "{self._postgres.schema_}";
            SET TimeZone = 'UTC';
            SET client_min_messages = 'warning';
            SET standard_conforming_strings = on;
            {limit}
            -- A client whose machine is gone is noticed within two minutes; its lock is given back then.
            SET tcp_keepalives_idle = 60;
            SET tcp_keepalives_interval = 10;
            SET tcp_keepalives_count = 6;
            """
            + ("SET default_transaction_read_only = on;" if self._read_only else "")
        )
        # One that is killed is noticed in the middle of a statement; not by a server on Windows, which refuses this.
        with contextlib.suppress(DataError):
            self.script("SET client_connection_check_interval = '1s'")

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
        # Under the lock everything is seen that those before have committed, whatever the role's default is.
        begin = f"BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL work_mem = '256MB'; {waits}"
        self._open = True
        try:
            self._run(lambda: self._cursor.executescript(begin), for_lock=True)
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
        self._thread.shutdown()

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
        """End what the thread waits for; give the connection up where the server does not react."""
        if future.done():
            return
        cursor, until = self._cursor, time.monotonic() + PATIENCE

        def cancels() -> None:
            while not future.done() and time.monotonic() < until:
                # Once may not be enough: the statement may not have come to the server yet.
                with contextlib.suppress(AdbcError):
                    cursor.adbc_cancel()
                wait([future], timeout=0.1)

        # It waits for the server, too.
        cancelling = threading.Thread(target=cancels, name="penstock-cancel", daemon=True)
        cancelling.start()
        try:
            wait([future], timeout=PATIENCE)
            cancelling.join(max(until - time.monotonic(), 0.1))
        finally:
            if not future.done() or cancelling.is_alive():
                self._give_up(future)

    def _give_up(self, future: Future[Any]) -> None:
        """Leave the connection to its thread; the server undoes what was not committed when it comes back."""
        lost = (self._cursor, self._connection)
        self._open = False
        self._cursor = self._connection = None
        self._thread.shutdown()
        self._thread = Worker("penstock-postgres")

        def ends(_: Future[Any]) -> None:
            for part in lost:
                with contextlib.suppress(AdbcError):
                    part.close()

        future.add_done_callback(ends)

    def _run(self, work: Callable[[], T], *, for_lock: bool = False) -> T:
        try:
            return self._wait(work)
        except AdbcError as error:
            # The driver's error holds the statement and values: not even the chain of errors shows it.
            alive = not state_of(error) and self._alive()
            raise explain(self.place, error, alive=alive, for_lock=for_lock) from None

    def script(self, sql: str) -> None:
        """Run the statements of a file."""
        self._run(lambda: self._cursor.executescript(sql))

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a query whose result is small."""
        numbers, found = self._read(sql, lambda: self._local.execute("SELECT * FROM fetched").fetchall())
        if not any(numbers):
            return found
        return [
            tuple(Decimal(value) if n and value is not None else value for n, value in zip(numbers, row, strict=True))
            for row in found
        ]

    def _read(self, sql: str, take: Callable[[], T]) -> tuple[list[bool], T]:
        """Run a query, and let `take` read the view `fetched`; also gives which columns are numbers without bounds."""

        def reads() -> tuple[list[bool], T]:
            self._cursor.execute(sql)
            stream = self._cursor.fetch_arrow()
            # PostgreSQL's numbers without bounds come as text, and say what they are.
            numbers = [b"numeric" in told.get(b"ARROW:extension:metadata", b"") for told in metadata(stream)]
            self._local.register("fetched", stream)
            try:
                return numbers, take()
            finally:
                self._local.unregister("fetched")

        try:
            return self._run(reads)
        except duckdb.Error as error:
            raise fetched(self.place, error, alive=self._alive()) from None

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
        # What does not fit into memory goes into a folder of its own, not into that where the process happens to be.
        spill = tempfile.TemporaryDirectory(prefix="penstock-", ignore_cleanup_errors=True)
        with spill, contextlib.closing(DuckDBBackend(":memory:")) as reader:
            reader.place = self.place
            reader.script(f"SET temp_directory = {quoted(spill.name)}")
            reader.stage("chosen", query, files, view)
            columns = ", ".join(_plain(column, kind) for column, kind, *_ in reader.rows("DESCRIBE chosen"))
            self.put_arrow(name, reader.arrow(f"SELECT {columns} FROM chosen"))

    def drop(self, *names: str) -> None:
        """Drop temporary tables, where they exist."""
        self.script(f"DROP TABLE IF EXISTS {', '.join(f'pg_temp.{name}' for name in names)}")

    def arrow(self, query: str) -> ArrowStreamExportable:
        """Run a query and hand out its rows as Arrow; timestamps with a time zone come as UTC."""
        # All of them, before anybody reads one: who does so knows nothing of signals, and of a connection that is lost.
        self._read(query, lambda: self._local.execute("CREATE OR REPLACE TEMP TABLE handed_out AS FROM fetched"))
        relation: ArrowStreamExportable = self._local.table("temp.handed_out")
        return relation

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
