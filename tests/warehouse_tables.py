"""The warehouses of a test, in either database, and all that stands in them, brought to one form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from services.postgres import Database

KINDS = ("duckdb", "postgres")

DIFFERS = {"finished_at", "load_id"}
"""Columns that no two loads have in common."""

LARGE = {"dim_time": "time_key"}
"""Tables of so many rows that the database adds them up itself, by their key: how many there are, and a hash of all."""


@dataclass
class Warehouses:
    """Warehouses by name: files beside each other, or the schemas of one database in PostgreSQL."""

    folder: Path
    database: Database | None = None

    @property
    def kind(self) -> str:
        """Which database it is."""
        return "postgres" if self.database else "duckdb"

    def target(self, name: str = "warehouse") -> dict[str, Any]:
        """The setting `warehouse`; the place for it is made."""
        if self.database is None:
            return {"duckdb": str(self.folder / f"{name}.duckdb")}
        self.database.run(f"CREATE SCHEMA IF NOT EXISTS {name}")
        return {"postgres": {"url": self.database.url, "schema": name}}

    def rows(self, sql: str, name: str = "warehouse") -> list[tuple[Any, ...]]:
        """What a query gives to a client that has nothing to do with what is tested."""
        if self.database is None:
            with duckdb.connect(str(self.folder / f"{name}.duckdb"), read_only=True) as con:
                return con.execute(sql).fetchall()
        with self.database.server.connect(self.database.name, options=f"-c search_path={name}") as con:
            return con.execute(sql.encode()).fetchall()

    def run(self, sql: str, name: str = "warehouse") -> None:
        """Runs statements."""
        if self.database is None:
            with duckdb.connect(str(self.folder / f"{name}.duckdb")) as con:
                con.execute(sql)
            return
        with self.database.server.connect(self.database.name, options=f"-c search_path={name}") as con:
            con.execute(sql.encode())

    def tables(self, name: str = "warehouse") -> list[str]:
        """All tables there are."""
        schema = "main" if self.database is None else name
        found = self.rows(f"SELECT table_name FROM information_schema.tables WHERE table_schema = '{schema}'", name)
        return sorted(table for (table,) in found)

    def everything(
        self, name: str = "warehouse", tables: Iterable[str] | None = None, without: Iterable[str] = ()
    ) -> dict[str, list[tuple[Any, ...]]]:
        """All rows of all tables (or of some), in order, but for what no two loads have in common."""
        schema = "main" if self.database is None else name
        left_out = DIFFERS | set(without)
        found = {}
        for table in tables if tables is not None else self.tables(name):
            columns = [
                column
                for (column,) in self.rows(
                    "SELECT column_name FROM information_schema.columns "
                    f"WHERE table_schema = '{schema}' AND table_name = '{table}' ORDER BY ordinal_position",
                    name,
                )
                if column not in left_out
            ]
            if table in LARGE:
                found[table] = self.rows(_all_of(table, columns), name)
                continue
            found[table] = sorted(self.rows(f"SELECT {', '.join(columns)} FROM {table}", name), key=_in_order)
        return found


def _all_of(table: str, columns: list[str]) -> str:
    """A query for the number of rows and a hash of all that stands in them; both databases give the same."""
    row = " || '|' || ".join(f"COALESCE(CAST({column} AS TEXT), '∅')" for column in columns)
    return f"SELECT count(*), md5(string_agg({row}, ';' ORDER BY {LARGE[table]})) FROM {table}"


def _in_order(row: tuple[Any, ...]) -> list[tuple[bool, Any]]:
    """Nulls after all values."""
    return [(value is None, 0 if value is None else value) for value in row]
