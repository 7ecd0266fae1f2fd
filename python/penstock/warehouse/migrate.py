"""Which version a warehouse's tables are of, and what brings them to the newest: files of SQL, by version."""
# ruff: noqa: S608 - what is put into the statements are names and numbers of our own, or quoted

from __future__ import annotations

import re
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Protocol

from penstock.errors import SettingsError, WrongWarehouseError
from penstock.warehouse.duckdb_backend import quoted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.abc import Traversable
    from pathlib import Path

    from penstock.warehouse.backend import Backend

SCHEMA_VERSION = 2
"""Of the tables; raise it with every change to them, and write the migration."""

KINDS = ("duckdb", "postgres")


class Readable(Protocol):
    """Of a warehouse what this module needs to look at it."""

    kind: str
    place: str

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a query whose result is small."""
        ...

    def columns(self, table: str) -> list[str]:
        """Names of a table's columns; empty when there is no such table."""
        ...


def version_of(backend: Readable, pipeline: str) -> int | None:
    """The version of a pipeline's tables; none where it has no tables yet.

    Raises:
        WrongWarehouseError: They were made by a newer penstock.
    """
    if not backend.columns("penstock_schema"):
        return None
    found = backend.rows(f"SELECT version FROM penstock_schema WHERE pipeline = {quoted(pipeline)}")
    if not found:
        return None
    version = int(found[0][0])
    if version > SCHEMA_VERSION:
        raise WrongWarehouseError(
            f"warehouse {backend.place}: its tables are of version {version}, made by a newer penstock; this one knows "
            f"version {SCHEMA_VERSION}. Upgrade penstock, or name another warehouse"
        )
    return version


def bookkeeping_version(backend: Readable) -> int | None:
    """The version that the tables of the loads have at least: the oldest of all pipelines that share them."""
    if not backend.columns("penstock_schema"):
        return None
    ((version,),) = backend.rows("SELECT min(version) FROM penstock_schema")
    return SCHEMA_VERSION if version is None else min(int(version), SCHEMA_VERSION)


def require_current(backend: Readable, pipeline: str) -> None:
    """See that a pipeline's tables are of the newest version.

    Raises:
        SettingsError: They are older; the message names the command to run.
        WrongWarehouseError: They were made by a newer penstock.
    """
    version = version_of(backend, pipeline)
    found = bookkeeping_version(backend) if version is None else version
    if found is not None and found < SCHEMA_VERSION:
        raise SettingsError(
            f"warehouse {backend.place}: its tables are of version {found}, and this penstock needs version "
            f"{SCHEMA_VERSION}. Run: penstock migrate {pipeline} (with the --to of this load, if it has one)",
            name="warehouse",
        )


def ddl_of(folder: Path | Traversable, kind: str) -> dict[str, str]:
    """The statements that make a pipeline's tables in one kind of warehouse, in their order, by the name of the file.

    Args:
        folder: The folder with the SQL files; those that make tables begin with a digit.
        kind: `duckdb` or `postgres`.
    """
    others = {other for other in KINDS if other != kind}
    names = sorted(file.name for file in folder.iterdir() if re.fullmatch(r"\d_\w+\.sql", file.name))
    return {
        name: folder.joinpath(name).read_text(encoding="utf-8")
        for name in names
        if name.removesuffix(".sql").partition("_")[2] not in others
    }


def steps(since: int, kind: str, pipeline: str, *, star: bool, bookkeeping_alone: bool = False) -> dict[int, list[str]]:
    """What brings the tables from a version to the newest: for each version between the statements to run.

    Args:
        since: The version that they are of.
        kind: `duckdb` or `postgres`.
        pipeline: Whose tables.
        star: Whether they are a star.
        bookkeeping_alone: Only the tables of the loads, for a pipeline that has no other ones yet.
    """
    folder = files("penstock.warehouse") / "migrations"
    models = [""] if bookkeeping_alone or not star else ["", ".star"]
    found: dict[int, list[str]] = {}
    for version in range(since + 1, SCHEMA_VERSION + 1):
        named = [folder / f"{version:04}{model}{of}.sql" for model in models for of in ("", f".{kind}")]
        found[version] = [
            file.read_text(encoding="utf-8").replace("{pipeline}", quoted(pipeline)) for file in named if file.is_file()
        ]
        if not bookkeeping_alone:
            found[version].append(
                f"UPDATE penstock_schema SET version = {version} WHERE pipeline = {quoted(pipeline)};\n"
            )
    return found


def new_tables(pipeline: str, ddl: Mapping[str, str], kind: str, *, bookkeeping: bool) -> list[str]:
    """What makes a pipeline's tables where there are none.

    Args:
        pipeline: Whose tables.
        ddl: The statements that make them, in their order, by the name of the file.
        kind: `duckdb` or `postgres`.
        bookkeeping: Whether the tables of the loads are to be made, too.
    """
    named = [files("penstock.warehouse") / f"bookkeeping{of}.sql" for of in ("", f".{kind}")]
    own = [file.read_text(encoding="utf-8") for file in named if file.is_file()]
    return [
        *(own if bookkeeping else []),
        *ddl.values(),
        f"INSERT INTO penstock_schema VALUES ({quoted(pipeline)}, {SCHEMA_VERSION});\n",
    ]


def plan(backend: Readable, pipeline: str, ddl: Mapping[str, str]) -> dict[int, list[str]]:
    """The statements that bring a pipeline's tables to the newest version, by the version that they lead to.

    Args:
        backend: The warehouse; only looked at.
        pipeline: Whose tables.
        ddl: The statements that make them where there are none, in their order, by the name of the file.
    """
    version, shared = version_of(backend, pipeline), bookkeeping_version(backend)
    if version is not None:
        star = any("CREATE TABLE fact_events" in sql for sql in ddl.values())
        return steps(version, backend.kind, pipeline, star=star)
    # The record of the loads is that of all pipelines in this warehouse; another one's may be older.
    before = steps(shared, backend.kind, pipeline, star=False, bookkeeping_alone=True) if shared is not None else {}
    made = new_tables(pipeline, ddl, backend.kind, bookkeeping=shared is None)
    return {**before, SCHEMA_VERSION: [*before.get(SCHEMA_VERSION, []), *made]}


def make_or_upgrade(backend: Backend, pipeline: str, ddl: Mapping[str, str]) -> None:
    """Bring a pipeline's tables to the newest version, inside a transaction; make them where there are none.

    Args:
        backend: Inside a transaction, under the lock of the tables.
        pipeline: Whose tables.
        ddl: The statements that make them, in their order, by the name of the file.
    """
    for statements in plan(backend, pipeline, ddl).values():
        for sql in statements:
            backend.script(sql)
