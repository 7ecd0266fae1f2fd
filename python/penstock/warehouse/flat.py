"""Raw rows: every Silver row of the pipeline `payments` is a row of `transactions`, under its position in the source.

The position is the key, and not the transaction's id: what was sent again after the horizon of deduplication is kept,
and settled in `transactions_clean` (see `penstock.warehouse.refresh`), whatever was loaded first. Temporary tables:

* `stage`: the Silver rows of this load.
* `gone`: rows that this load takes away.
* `changed`: rows of `stage` that are there already, and otherwise.
"""
# ruff: noqa: S608 - what is put into the statements are names and numbers of our own, never text from an event

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock import _core
from penstock.warehouse.duckdb_backend import parquet
from penstock.warehouse.files import count_rows
from penstock.warehouse.lakelog import absolute, in_files, live_files
from penstock.warehouse.star import POSITION, Counts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.warehouse.backend import Backend
    from penstock.warehouse.model import Rows

BRONZE = "bronze/events"
TOUCHED = "transactions_touched"
IDS = ("transaction_id", "user_id")
NO_BRONZE = (
    '(SELECT CAST(NULL AS TEXT) AS topic, CAST(NULL AS INTEGER) AS partition, CAST(NULL AS BIGINT) AS "offset", '
    "CAST(NULL AS TIMESTAMPTZ) AS timestamp, CAST(NULL AS TIMESTAMPTZ) AS ingested_at LIMIT 0)"
)
FROM_BRONZE = 'b.topic = s._topic AND b.partition = s._partition AND b."offset" = s._offset'


class Flat:
    """The model of the ready-made pipeline `payments`."""

    ddl: tuple[str, ...] = ("1_tables.sql", "2_views.sql")
    queries: tuple[str, ...] = ("transactions.sql",)
    temporary: tuple[str, ...] = ("staged", "silver", "lake_files", "stage", "gone", "changed")
    with_lake_file: tuple[str, ...] = ("transactions",)

    def load(self, warehouse: Backend, sql: Mapping[str, str], rows: Rows) -> Counts:
        """Bring `transactions` up to date with these rows, inside a transaction."""
        counts = Counts()
        columns = tuple(c for c in warehouse.columns("transactions") if c != "load_number")
        within = rows.within("event_time")
        self._stage(warehouse, sql["transactions.sql"], rows, columns, within)
        _core.pass_failpoint("load.staged")
        scope = within or in_files(rows.removed)
        if scope:
            counts.deleted = _delete(warehouse, scope, rows.number)
        ((staged,),) = warehouse.rows("SELECT count(*) FROM stage")
        listed = ", ".join(columns)
        counts.inserted = warehouse.change(
            f"INSERT INTO transactions ({listed}, load_number) SELECT {listed}, {rows.number} FROM stage "
            f"ON CONFLICT ({', '.join(POSITION)}) DO NOTHING"
        )
        if counts.inserted < staged:
            counts.updated = _update(warehouse, columns, rows.number)
        return counts

    def astray(self) -> str:
        """Raw rows point nowhere."""
        return "SELECT 0"

    def _stage(self, warehouse: Backend, sql: str, rows: Rows, columns: tuple[str, ...], within: str | None) -> None:
        placed = absolute(rows.spec, rows.files, handed=rows.handed)
        if not placed:
            warehouse.temporary("stage", f"SELECT {', '.join(columns)} FROM transactions LIMIT 0")
            return
        chosen = f"SELECT * FROM ({sql.replace('{bronze}', _bronze(rows, placed))}) AS silver_rows"
        warehouse.stage("staged", chosen + (f" WHERE {within}" if within else ""), placed, "silver")
        listed = ", ".join(f"CAST({c} AS UUID) AS {c}" if c in IDS else c for c in columns)
        warehouse.temporary("stage", f"SELECT {listed} FROM staged")


def _bronze(rows: Rows, placed: list[tuple[str, int]]) -> str:
    """Bronze as a table of DuckDB, where a Silver row does not say itself when it was processed."""
    open_ones = "SELECT 1 FROM silver AS s WHERE s.processing_time IS NULL"
    if not count_rows(f"{open_ones} LIMIT 1", placed, "silver"):
        return NO_BRONZE
    if rows.bronze:
        # An epoch brings the Bronze of its own events; that of all others is looked for only where one was held back.
        own = parquet([path for path, _ in absolute(rows.spec, rows.bronze, handed=rows.handed)])
        known = f"SELECT 1 FROM {own} AS b WHERE {FROM_BRONZE}"
        if not count_rows(f"{open_ones} AND NOT EXISTS ({known}) LIMIT 1", placed, "silver"):
            return own
    times = [(file.min_event_time, file.max_event_time) for file in rows.files]
    first = min((low for low, _ in times if low is not None), default=None)
    last = max((high for _, high in times if high is not None), default=None)
    there = {file.path: file for file in (*live_files(rows.spec, BRONZE), *rows.bronze)}
    if first is not None and last is not None:
        there = {path: file for path, file in there.items() if file.may_hold(first, last + 1)}
    if not there:
        return NO_BRONZE
    return parquet([path for path, _ in absolute(rows.spec, there.values())])


def _same(left: str, right: str) -> str:
    return " AND ".join(f"{left}.{column} = {right}.{column}" for column in POSITION)


def _delete(warehouse: Backend, scope: str, number: int) -> int:
    """Take away what `stage` replaces and does not bring again."""
    listed = ", ".join(("transaction_id", *POSITION))
    warehouse.temporary(
        "gone",
        f"SELECT {listed} FROM transactions AS t WHERE {scope} "
        f"AND NOT EXISTS (SELECT 1 FROM stage AS s WHERE {_same('s', 't')})",
    )
    warehouse.change(f"INSERT INTO {TOUCHED} SELECT DISTINCT transaction_id, {number} FROM gone")
    return warehouse.change(
        f"DELETE FROM transactions WHERE EXISTS (SELECT 1 FROM gone AS g WHERE {_same('g', 'transactions')})"
    )


def _kept(new: str, old: str, column: str) -> str:
    """The value of a column after an update."""
    return f"coalesce({new}.{column}, {old}.{column})" if column == "processing_time" else f"{new}.{column}"


def _update(warehouse: Backend, columns: tuple[str, ...], number: int) -> int:
    """Bring what is there in line with `stage`; a row that only went to another file has not changed.

    When it was processed may have stood in Bronze that is gone by now: what is known of it stays.
    """
    own = [column for column in columns if column not in (*POSITION, "lake_file")]
    before = ", ".join(f"t.{column}" for column in own)
    after = ", ".join(_kept("s", "t", column) for column in own)
    warehouse.temporary(
        "changed",
        f"SELECT s.*, t.transaction_id AS id_before, ({before}) IS DISTINCT FROM ({after}) AS otherwise "
        f"FROM stage AS s JOIN transactions AS t ON {_same('s', 't')} "
        f"WHERE t.lake_file <> s.lake_file OR ({before}) IS DISTINCT FROM ({after})",
    )
    warehouse.change(
        f"INSERT INTO {TOUCHED} SELECT DISTINCT id_before, {number} FROM changed WHERE id_before <> transaction_id"
    )
    values = ", ".join(f"{column} = {_kept('c', 'transactions', column)}" for column in own)
    updated = warehouse.change(
        f"UPDATE transactions SET {values}, lake_file = c.lake_file, load_number = {number} "
        f"FROM changed AS c WHERE {_same('c', 'transactions')} AND c.otherwise"
    )
    warehouse.change(
        "UPDATE transactions SET lake_file = c.lake_file "
        f"FROM changed AS c WHERE {_same('c', 'transactions')} AND NOT c.otherwise"
    )
    return updated
