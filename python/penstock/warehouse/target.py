"""Which warehouse is meant: from a setting or an argument to an open connection."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.errors import SettingsError
from penstock.postgres import Postgres, is_postgres
from penstock.storage import need
from penstock.warehouse.backend import BusyError
from penstock.warehouse.duckdb_backend import DuckDBBackend

if TYPE_CHECKING:
    from penstock.warehouse.backend import Backend

WAIT = 10.0
"""For so many seconds a DuckDB file that another process has open is waited for, unless told otherwise."""

_log = logging.getLogger("penstock.warehouse")

_HOW = (
    "set `warehouse: {duckdb: FILE}` or `warehouse: {postgres: URL}` in the pipeline file, or pass `--to duckdb:FILE` "
    "or `--to postgresql://…`"
)

# What a file is called that is named without its kind.
_ENDINGS = (".duckdb", ".ddb", ".db")
# How libpq also takes a database; a password may stand there.
_KEYWORDS = re.compile(r"\b(host|hostaddr|port|dbname|user|password|passfile|service|sslmode)\s*=", re.IGNORECASE)


@dataclass(frozen=True)
class Target:
    """A warehouse by its kind and place.

    Attributes:
        kind: `duckdb` or `postgres`.
        place: The file, or the database as messages call it.
        postgres: How the database is reached.
    """

    kind: str
    place: str
    postgres: Postgres | None = None


def parse_target(warehouse: str | Mapping[str, Any] | Target | None) -> Target:
    """Read a warehouse setting.

    Args:
        warehouse: `duckdb:FILE`, a file that ends in `.duckdb`, `.ddb` or `.db`, the URL of a database in PostgreSQL,
            or the `warehouse` mapping of a pipeline file.

    Raises:
        SettingsError: It names no warehouse, or one of a kind that is not known.
    """
    if isinstance(warehouse, Target):
        return warehouse
    if warehouse is None or not warehouse:
        raise SettingsError(f"warehouse: none is named; {_HOW}", name="warehouse")
    if isinstance(warehouse, Mapping):
        kinds = set(warehouse) - {"fill"}
        if kinds == {"duckdb"}:
            return Target("duckdb", str(warehouse["duckdb"]))
        if kinds == {"postgres"}:
            return _postgres(Postgres.of(warehouse["postgres"]))
        raise SettingsError(
            f"warehouse: {', '.join(map(str, warehouse))} is not a kind of warehouse known here; {_HOW}"
        )
    if is_postgres(warehouse):
        return _postgres(Postgres.of(warehouse))
    kind, _, place = warehouse.partition(":")
    if kind == "duckdb" and place:
        return Target("duckdb", place)
    if kind == "duckdb":
        raise SettingsError(f"warehouse: duckdb: names no file; {_HOW}", name="warehouse")
    # A drive's letter is none of them. What stands behind the kind may hold a password, and is not shown.
    if "://" in warehouse or kind.lower() in ("md", "motherduck", "snowflake", "bigquery"):
        raise SettingsError(f"warehouse: {kind} is not a kind of warehouse known here; {_HOW}", name="warehouse")
    if not warehouse.lower().endswith(_ENDINGS) or _KEYWORDS.search(warehouse):
        raise SettingsError(
            f"warehouse: this is neither the URL of a database nor a file that ends in {', '.join(_ENDINGS)}; {_HOW}",
            name="warehouse",
        )
    return Target("duckdb", warehouse)


def warehouse_of(spec: Mapping[str, Any], warehouse: str | Mapping[str, Any] | Target | None = None) -> Target:
    """The warehouse of a specification, or another one in its place.

    Raises:
        SettingsError: It names no warehouse, or one of a kind that is not known.
    """
    if warehouse is not None:
        return parse_target(warehouse)
    need(spec, "warehouse")
    named = spec.get("warehouse")
    url = getattr(spec, "warehouse_secret", None)
    if isinstance(named, Mapping) and isinstance(named.get("postgres"), Mapping) and url is not None:
        return _postgres(Postgres.from_spec(named["postgres"], url))
    return parse_target(named)


def _postgres(postgres: Postgres) -> Target:
    return Target("postgres", postgres.place, postgres)


def connect(
    warehouse: str | Mapping[str, Any] | Target | None, *, read_only: bool = False, wait: float = 0.0
) -> Backend:
    """Open a warehouse.

    Args:
        warehouse: As for `parse_target`.
        read_only: Open it for queries only.
        wait: For so many seconds a DuckDB file that another process has open is waited for.

    Raises:
        SettingsError: It names no warehouse, or one of a kind that is not known.
        WarehouseError: It cannot be opened.
        MissingExtraError: It is PostgreSQL, and its driver is not installed.
    """
    target = parse_target(warehouse)
    if target.postgres is not None:
        from penstock.warehouse.postgres_backend import PostgresBackend

        return PostgresBackend(target.postgres, read_only=read_only)
    deadline = time.monotonic() + wait
    told = False
    while True:
        try:
            return DuckDBBackend(Path(target.place), read_only=read_only)
        except BusyError as error:
            if time.monotonic() >= deadline:
                raise
            if not told:
                _log.info("%s. Waiting for it, %g s at most", error, wait)
                told = True
        time.sleep(0.05)  # nothing tells when the file is free
