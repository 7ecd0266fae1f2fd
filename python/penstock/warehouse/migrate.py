"""Tables of an older version are brought to the newest, in one transaction, one file of SQL a version."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from penstock.errors import WarehouseError
from penstock.warehouse.duckdb_backend import quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.warehouse.backend import Backend

SCHEMA_VERSION = 2
"""Of the tables; raise it with every change to them, and write the migration."""


def version_of(backend: Backend, pipeline: str) -> int | None:
    """The version of a pipeline's tables; none where it has no tables yet.

    Raises:
        WarehouseError: They were made by a newer penstock.
    """
    if not backend.columns("penstock_schema"):
        return None
    found = backend.rows(f"SELECT version FROM penstock_schema WHERE pipeline = {quoted(pipeline)}")  # noqa: S608
    if not found:
        return None
    version = int(found[0][0])
    if version > SCHEMA_VERSION:
        raise WarehouseError(
            f"warehouse {backend.place}: its tables are of version {version}, made by a newer penstock; this one knows "
            f"version {SCHEMA_VERSION}. Upgrade penstock, or name another warehouse"
        )
    return version


def make_or_upgrade(backend: Backend, pipeline: str, ddl: Mapping[str, str]) -> None:
    """Bring a pipeline's tables to the newest version, inside a transaction; make them where there are none.

    Args:
        backend: Inside a transaction, under the lock of the tables.
        pipeline: Whose tables.
        ddl: The statements that make them, in their order, by the name of the file.
    """
    version = version_of(backend, pipeline)
    ours = files("penstock.warehouse")
    columns = backend.columns("penstock_loads")
    if not columns:
        backend.script(ours.joinpath("bookkeeping.sql").read_text(encoding="utf-8"))
    elif "load_id" not in columns:
        # The record of the loads is that of all pipelines in this warehouse; another one's may be older.
        backend.script((ours / "migrations" / "0002.sql").read_text(encoding="utf-8"))
    if version is None:
        for sql in ddl.values():
            backend.script(sql)
        backend.change(f"INSERT INTO penstock_schema VALUES ({quoted(pipeline)}, {SCHEMA_VERSION})")  # noqa: S608
    elif version < SCHEMA_VERSION:
        backend.change(
            f"UPDATE penstock_schema SET version = {SCHEMA_VERSION} WHERE pipeline = {quoted(pipeline)}"  # noqa: S608
        )
