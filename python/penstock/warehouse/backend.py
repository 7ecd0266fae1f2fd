"""What a database has to offer so that a star schema can be loaded into it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from penstock.errors import WarehouseError

if TYPE_CHECKING:
    from penstock._typing import ArrowStreamExportable


class BackendGoneError(WarehouseError):
    """The connection was lost, or cannot be made for now; nothing that was not committed stays."""


class BusyError(WarehouseError):
    """Another process has the file open."""


class DeadlockError(WarehouseError):
    """The database has ended the transaction in favour of another one; nothing of it stays."""


class CommitUnknownError(WarehouseError):
    """The connection was lost in the middle of COMMIT: it may be done, or not."""


class Backend(Protocol):
    """One connection to a warehouse.

    The SQL that goes through it keeps to what DuckDB and PostgreSQL share; what they do not share are the methods. A
    temporary table lives until the connection is closed or `drop` is called. Nothing is visible to others before
    `commit`.
    """

    kind: str
    """`duckdb` or `postgres`."""

    order_inserts: bool
    """Whether many rows go faster into a table in the order of its key."""

    place: str
    """What to call the warehouse in messages; never holds a password."""

    def begin(self, lock: str = "") -> None:
        """Start the transaction; a second writer under the same lock waits or fails here, not later."""
        ...

    def commit(self) -> None:
        """Make everything since `begin` durable and visible, all at once.

        Raises:
            CommitUnknownError: The connection was lost before the answer came.
        """
        ...

    def reopen(self, give_up: float) -> None:
        """Connect again after the connection was lost, trying for so many seconds.

        Raises:
            BackendGoneError: The database did not come back.
        """
        ...

    def rollback(self) -> None:
        """Undo everything since `begin`; does nothing outside a transaction."""
        ...

    def cancel(self) -> None:
        """End the statement that another thread waits for, if it waits for one."""
        ...

    def close(self) -> None:
        """Close the connection, undoing what was not committed."""
        ...

    def script(self, sql: str) -> None:
        """Run the statements of a file."""
        ...

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a query whose result is small."""
        ...

    def change(self, sql: str) -> int:
        """Run INSERT, UPDATE or DELETE; returns how many rows it touched."""
        ...

    def temporary(self, name: str, query: str) -> None:
        """Make a temporary table out of a query on this warehouse."""
        ...

    def stage(self, name: str, query: str, files: list[tuple[str, int]], view: str) -> None:
        """Make a temporary table (or view) out of a query on Parquet files, run by DuckDB.

        Args:
            name: The table to make.
            query: A DuckDB query over `view`.
            files: Paths of the files, each with the number that stands in the column `lake_file`.
            view: The name by which the query calls the rows of the files.
        """
        ...

    def drop(self, *names: str) -> None:
        """Drop temporary tables, where they exist."""
        ...

    def arrow(self, query: str) -> ArrowStreamExportable:
        """Run a query and hand out its rows as Arrow; timestamps with a time zone come as UTC."""
        ...

    def put_arrow(self, name: str, data: ArrowStreamExportable) -> None:
        """Make a temporary table out of Arrow data."""
        ...

    def columns(self, table: str) -> list[str]:
        """Names of a table's columns in their order; empty when there is no such table."""
        ...
