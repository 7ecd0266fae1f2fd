"""Is every Silver row a fact, and every fact on the right row of its user? Counted again from files and tables."""
# ruff: noqa: S608 - what is put into the statements are names and numbers of our own

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.errors import WarehouseError
from penstock.warehouse.duckdb_backend import quoted
from penstock.warehouse.lakelog import BEGINNING, files_left, identity_of, logs, read_log
from penstock.warehouse.loader import SILVER, last_entry, require_same_lake
from penstock.warehouse.model import model_for
from penstock.warehouse.target import WAIT, Target, connect, warehouse_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.abc import Traversable

    from penstock.warehouse.backend import Backend
    from penstock.warehouse.model import Model


@dataclass(frozen=True)
class WarehouseAudit:
    """The warehouse against the lake.

    Attributes:
        log_number: The last entry of the lake's log that is loaded; in shards the highest. Where the run itself writes
            its epochs, that may be one that is not committed yet.
        silver: Silver rows up to there.
        facts: Rows of fact_events; where raw rows are loaded, theirs.
        duplicates: Rows kept aside because an earlier event has their key.
        missing: Silver rows (up to there) that are neither; more than none is an error.
        surplus: Facts and duplicates with no such Silver row. Single dates that were loaded since then may have brought
            them; else it is an error.
        astray: Facts on no row of dim_user, another user's, or one that was not valid at the time.
        dates_loaded_since: How many loads of single dates there were since the log was loaded last.
    """

    log_number: int
    silver: int
    facts: int
    duplicates: int
    missing: int
    surplus: int
    astray: int
    dates_loaded_since: int

    @property
    def balanced(self) -> bool:
        """Whether everything is where it has to be."""
        if self.dates_loaded_since:  # their rows may be newer than what the log was loaded up to, and replace some
            return not self.astray
        return not (self.missing or self.surplus or self.astray)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"balanced": self.balanced}


def was_loaded(spec: Mapping[str, Any]) -> bool:
    """Whether there is a warehouse, and something was loaded into it.

    Raises:
        WarehouseError: It cannot be opened.
    """
    if not spec.get("warehouse"):
        return False
    target = warehouse_of(spec)
    if target.postgres is None:
        return Path(target.place).exists()
    backend = connect(target, read_only=True, wait=WAIT)
    try:
        return bool(backend.columns("penstock_loads"))
    finally:
        backend.close()


def audit(
    spec: Mapping[str, Any],
    warehouse: str | Mapping[str, Any] | Target | None = None,
    *,
    tables: Path | Traversable | None = None,
) -> WarehouseAudit:
    """Count the warehouse again; it is only read.

    Args:
        spec: The pipeline file, read: `name`, `lake`, `warehouse`.
        warehouse: Another warehouse than that of `spec`.
        tables: The folder with the SQL files of the tables; that of the ready-made pipeline of this name unless given.

    Raises:
        LakeError: The lake is not there, or is another one than was loaded.
        WarehouseError: The warehouse cannot be opened, or holds no loads.
    """
    backend = connect(warehouse_of(spec, warehouse), read_only=True, wait=WAIT)
    try:
        return audit_over(backend, spec, tables)
    finally:
        backend.close()


def audit_over(backend: Backend, spec: Mapping[str, Any], tables: Path | Traversable | None = None) -> WarehouseAudit:
    """The same, over a connection that is there."""
    shards, lake = logs(spec), identity_of(spec)
    seen = _look(backend, spec, model_for(spec, tables, backend), list(shards), lake)
    # Afterwards, so that the log is as new as the warehouse, or newer: but for one epoch that is on its way.
    entries = {log: read_log(spec, BEGINNING, SILVER, shard) for log, shard in shards.items()}
    left = [
        file
        for log, found in entries.items()
        for file in files_left(entry for entry in found if entry.number <= seen.reached[log]).values()
    ]
    expected = {file.number: file.rows for file in left}
    # By file: a row that was moved to another file counts as missing in one and as surplus in the other.
    short = {file: expected.get(file, 0) - seen.files.get(file, 0) for file in expected.keys() | seen.files.keys()}
    missing = sum(count for count in short.values() if count > 0)
    surplus = -sum(count for count in short.values() if count < 0)
    # The rows of an epoch that is not committed yet are in files that no entry names.
    ahead = {log for log, found in entries.items() if max((e.number for e in found), default=-1) < seen.reached[log]}
    if ahead:
        named = {file.number for found in entries.values() for entry in found for file in entry.added}
        planned = sum(count for file, count in seen.files.items() if file not in named)
        wanted = sum(seen.last_rows[log] for log in ahead)
        surplus += max(planned - wanted, 0) - planned
        missing += max(wanted - planned, 0)
    return WarehouseAudit(
        log_number=max(seen.reached.values()),
        silver=sum(expected.values()) + sum(seen.last_rows[log] for log in ahead),
        facts=seen.facts,
        duplicates=seen.duplicates,
        missing=missing,
        surplus=surplus,
        astray=seen.astray,
        dates_loaded_since=seen.since,
    )


@dataclass(frozen=True)
class _Seen:
    """What a warehouse holds at one moment: entries loaded, rows of the last one, rows by file, and so on."""

    reached: dict[str, int]
    last_rows: dict[str, int]
    files: dict[int, int]
    facts: int
    duplicates: int
    astray: int
    since: int


def _look(backend: Backend, spec: Mapping[str, Any], model: Model, logs: list[str], lake: str | None) -> _Seen:
    name = str(spec["name"])
    if not backend.columns("penstock_loads"):
        raise WarehouseError(f"warehouse {backend.place}: nothing was loaded. Run `penstock load {name}` first")
    # Of one moment: a run may be at work.
    backend.begin()
    if backend.kind == "postgres":
        backend.script("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    for log in logs:
        require_same_lake(backend, spec, log, lake)
    reached = {log: last_entry(backend, log) for log in logs}
    rows = {
        log: backend.rows(
            f"SELECT coalesce(rows_read, 0) FROM penstock_loads WHERE pipeline = {quoted(log)} "
            f"AND log_number = {number} AND event_date IS NULL"
        )
        for log, number in reached.items()
    }
    listed = " UNION ALL ".join(f"SELECT lake_file FROM {table}" for table in model.with_lake_file)
    files = backend.rows(f"SELECT lake_file, count(*) FROM ({listed}) AS rows_loaded GROUP BY lake_file")
    counts = ", ".join(f"(SELECT count(*) FROM {table})" for table in model.with_lake_file)
    own = f"split_part(pipeline, '/', 1) = {quoted(name)}"
    ((*counted, astray, since),) = backend.rows(
        f"""
        SELECT {counts}, ({model.astray()}),
            (SELECT count(*) FROM penstock_loads WHERE {own} AND event_date IS NOT NULL AND load_number > (
                SELECT coalesce(max(load_number), 0) FROM penstock_loads WHERE {own} AND event_date IS NULL))
        """
    )
    facts, duplicates = (*counted, 0)[:2]
    backend.rollback()
    last_rows = {log: int(found[0][0]) if found else 0 for log, found in rows.items()}
    return _Seen(reached, last_rows, dict(files), facts, duplicates, astray, since)
