"""Which warehouse is meant: from a setting or an argument to an open connection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.errors import SettingsError
from penstock.warehouse.duckdb_backend import DuckDBBackend

if TYPE_CHECKING:
    from penstock.warehouse.backend import Backend

_HOW = "set `warehouse: {duckdb: FILE}` in the pipeline file, or pass `--to duckdb:FILE`"


@dataclass(frozen=True)
class Target:
    """A warehouse by its kind and place."""

    kind: str
    place: str


def parse_target(warehouse: str | Mapping[str, Any] | Target | None) -> Target:
    """Read a warehouse setting.

    Args:
        warehouse: `duckdb:FILE`, the path of a DuckDB file, or the `warehouse` mapping of a pipeline file.

    Raises:
        SettingsError: It names no warehouse, or one of a kind that is not known.
    """
    if isinstance(warehouse, Target):
        return warehouse
    if warehouse is None or not warehouse:
        raise SettingsError(f"warehouse: none is named; {_HOW}", name="warehouse")
    if isinstance(warehouse, Mapping):
        if set(warehouse) != {"duckdb"}:
            raise SettingsError(
                f"warehouse: {', '.join(map(str, warehouse))} is not a kind of warehouse known here; {_HOW}"
            )
        return Target("duckdb", str(warehouse["duckdb"]))
    kind, _, place = warehouse.partition(":")
    if kind == "duckdb" and place:
        return Target("duckdb", place)
    if kind == "duckdb":
        raise SettingsError(f"warehouse: duckdb: names no file; {_HOW}", name="warehouse")
    # A drive's letter is none of them. What stands behind the kind may hold a password, and is not shown.
    if "://" in warehouse or kind.lower() in ("postgres", "postgresql", "md", "motherduck", "snowflake", "bigquery"):
        raise SettingsError(f"warehouse: {kind} is not a kind of warehouse known here; {_HOW}", name="warehouse")
    return Target("duckdb", warehouse)


def connect(warehouse: str | Mapping[str, Any] | Target | None, *, read_only: bool = False) -> Backend:
    """Open a warehouse.

    Args:
        warehouse: As for `parse_target`.
        read_only: Open it for queries only.

    Raises:
        SettingsError: It names no warehouse, or one of a kind that is not known.
        WarehouseError: It cannot be opened.
    """
    target = parse_target(warehouse)
    return DuckDBBackend(Path(target.place), read_only=read_only)
