"""`penstock refresh`: what is made of the raw transactions, anew or as far as they have changed, with the same rows.

`transactions_clean` is a function of `transactions` alone: no clock, and no order of loads. A refresh makes the rows
that should be there in a temporary table, and writes only what differs; readers never wait, and never see it empty.
Which ids have changed since the last refresh, the numbers of the loads say. A number is taken under a lock that is held
to the COMMIT, so that none comes in behind a higher one. Loads and refreshes do not wait for each other: what a load
commits meanwhile has a higher number than the refresh writes down, and is looked at once more by the next.
"""
# ruff: noqa: S608 - what is put into the statements are names and numbers of our own, or quoted

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from penstock.errors import DataError, SettingsError, WarehouseError
from penstock.warehouse.duckdb_backend import quoted
from penstock.warehouse.flat import TOUCHED, Flat
from penstock.warehouse.model import model_of, read_sql, tables_of
from penstock.warehouse.target import WAIT, connect, warehouse_of
from penstock.warehouse.transaction import transact

if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.abc import Traversable
    from pathlib import Path

    from penstock.warehouse.backend import Backend
    from penstock.warehouse.target import Target

CLEAN = "transactions_clean"
VIEWS = "views"
PARTS = (CLEAN, VIEWS)
HOURLY = "hourly_metrics"
KEY = "transaction_id"


@dataclass(frozen=True)
class CleanReport:
    """What became of `transactions_clean`.

    Attributes:
        full: Whether all of it was made anew, and not only what had changed.
        load_number: Of `penstock_loads`: the load up to which it is refreshed.
        rows: How many rows it has now.
    """

    full: bool
    load_number: int
    inserted: int
    updated: int
    deleted: int
    rows: int


@dataclass(frozen=True)
class ViewsReport:
    """What `hourly_metrics` shows."""

    hours: int
    total_transactions: int
    late_transactions: int


@dataclass(frozen=True)
class RefreshReport:
    """What a refresh did; a part that was not wanted is none."""

    pipeline: str
    warehouse: str
    transactions_clean: CleanReport | None
    views: ViewsReport | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def refresh(
    spec: Mapping[str, Any],
    warehouse: str | Mapping[str, Any] | Target | None = None,
    *,
    full: bool = False,
    only: str | None = None,
    tables: Path | Traversable | None = None,
) -> RefreshReport:
    """Make `transactions_clean` and the views of the hourly metrics.

    Args:
        spec: The pipeline file, read: `name`, `warehouse`.
        warehouse: Another warehouse than that of `spec`.
        full: Make all rows anew, not only those that changed since the last refresh. The rows are the same.
        only: `transactions_clean` or `views`; both unless given.
        tables: The folder with the SQL files of the tables; that of the ready-made pipeline of this name unless given.

    Raises:
        SettingsError: The pipeline has no such tables, `only` is no part, or the warehouse setting is wrong.
        WarehouseError: The warehouse cannot be opened or written, or nothing was loaded yet.
    """
    if only is not None and only not in PARTS:
        raise SettingsError(f"only: {only!r} is no part of a refresh; there are {' and '.join(PARTS)}", name="only")
    name = str(spec["name"])
    folder = tables if tables is not None else tables_of(name)
    if not isinstance(model_of(folder), Flat):
        raise SettingsError(f"pipeline {name}: it has no raw table to refresh others from; the star is loaded as it is")
    backend = connect(warehouse_of(spec, warehouse), wait=WAIT)
    try:
        if not backend.columns("transactions"):
            raise WarehouseError(f"warehouse {backend.place}: nothing was loaded. Run `penstock run {name}` first")
        query, views = read_sql(folder, "clean.sql"), read_sql(folder, "2_views.sql")
        clean = _Clean(backend, name, query).refresh(full=full) if only != VIEWS else None
        shown = _refresh_views(backend, name, views) if only != CLEAN else None
    finally:
        backend.close()
    return RefreshReport(name, backend.place, clean, shown)


def refreshed_to(backend: Backend, pipeline: str) -> int | None:
    """The load up to which `transactions_clean` is refreshed; none before the first time."""
    found = backend.rows(
        f"SELECT load_number FROM penstock_refreshes WHERE pipeline = {quoted(pipeline)} "
        f"AND table_name = {quoted(CLEAN)}"
    )
    return int(found[0][0]) if found else None


def _lock(pipeline: str) -> str:
    return f"{pipeline}/refresh"


class _Clean:
    def __init__(self, backend: Backend, pipeline: str, query: str) -> None:
        self.backend = backend
        self.pipeline = pipeline
        self.query = query

    def refresh(self, *, full: bool) -> CleanReport:
        """In one transaction, and again from the start where the connection is lost."""
        return transact(self.backend, _lock(self.pipeline), lambda: self._work(full=full))

    def _work(self, *, full: bool) -> CleanReport:
        ((to,),) = self.backend.rows(
            "SELECT coalesce(max(load_number), 0) FROM penstock_loads "
            f"WHERE split_part(pipeline, '/', 1) = {quoted(self.pipeline)}"
        )
        since = refreshed_to(self.backend, self.pipeline)
        full = full or since is None
        inserted, updated, deleted = (0, 0, 0) if since == to and not full else self._make(None if full else since)
        if since != to:
            self._write_down(since, int(to))
        self.backend.drop("ids", "fresh")
        ((rows,),) = self.backend.rows(f"SELECT count(*) FROM {CLEAN}")
        return CleanReport(full, int(to), inserted, updated, deleted, int(rows))

    def _make(self, since: int | None) -> tuple[int, int, int]:
        """Make what should be there, of all ids or of those that changed since a load, and write what differs."""
        backend = self.backend
        scope = "true"
        if since is not None:
            changed = " UNION ".join(
                f"SELECT {KEY} FROM {table} WHERE load_number > {since}" for table in ("transactions", TOUCHED)
            )
            backend.temporary("ids", changed)
            scope = f"{KEY} IN (SELECT {KEY} FROM ids)"
        backend.temporary("fresh", self.query.replace("{scope}", scope))
        columns = [column for column in backend.columns(CLEAN) if column != KEY]
        here, there = (", ".join(f"{table}.{column}" for column in columns) for table in (CLEAN, "f"))
        same = f"f.{KEY} = {CLEAN}.{KEY}"
        deleted = backend.change(
            f"DELETE FROM {CLEAN} WHERE {scope} AND NOT EXISTS (SELECT 1 FROM fresh AS f WHERE {same})"
        )
        updated = backend.change(
            f"UPDATE {CLEAN} SET {', '.join(f'{column} = f.{column}' for column in columns)} FROM fresh AS f "
            f"WHERE {same} AND ({here}) IS DISTINCT FROM ({there})"
        )
        listed = ", ".join((KEY, *columns))
        inserted = backend.change(
            f"INSERT INTO {CLEAN} ({listed}) SELECT {listed} FROM fresh AS f "
            f"WHERE NOT EXISTS (SELECT 1 FROM {CLEAN} WHERE {same})"
        )
        return inserted, updated, deleted

    def _write_down(self, since: int | None, to: int) -> None:
        backend = self.backend
        backend.change(f"DELETE FROM {TOUCHED} WHERE load_number <= {to}")
        if since is None:
            backend.change(
                f"INSERT INTO penstock_refreshes (pipeline, table_name, load_number) "
                f"VALUES ({quoted(self.pipeline)}, {quoted(CLEAN)}, {to})"
            )
            return
        backend.change(
            f"UPDATE penstock_refreshes SET load_number = {to} "
            f"WHERE pipeline = {quoted(self.pipeline)} AND table_name = {quoted(CLEAN)}"
        )


def _refresh_views(backend: Backend, pipeline: str, views: str) -> ViewsReport:
    """Make the views anew, where it may be done, and see that they add up."""

    def work() -> ViewsReport:
        # Who only loads in PostgreSQL may not replace the views of who made them; they are right then, too.
        if backend.kind != "postgres" or not backend.columns(HOURLY) or _owned(backend):
            backend.script(views)
        ((hours, total, late, rows, slow),) = backend.rows(
            f"SELECT count(*), coalesce(sum(total_transactions), 0), coalesce(sum(late_transactions), 0), "
            f"(SELECT count(*) FROM {CLEAN}), (SELECT count(*) FROM {CLEAN} WHERE is_late) FROM {HOURLY}"
        )
        if (total, late) != (rows, slow):
            raise DataError(
                f"warehouse {backend.place}: {HOURLY} counts {total} transactions ({late} late), and {CLEAN} has "
                f"{rows} ({slow} late). Is the view another one than ours?"
            )
        return ViewsReport(int(hours), int(total), int(late))

    return transact(backend, _lock(pipeline), work)


def _owned(backend: Backend) -> bool:
    ((owned,),) = backend.rows(
        f"SELECT coalesce(bool_and(pg_has_role(relowner, 'USAGE')), false) FROM pg_class "
        f"WHERE oid IN (to_regclass({quoted(HOURLY)}), to_regclass({quoted(f'{HOURLY}_by_currency')}))"
    )
    return bool(owned)
