"""Is every Silver row a fact, and every fact on the right row of its user? Counted again from files and tables."""
# ruff: noqa: S608 - what is put into the statements are names and numbers of our own

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.errors import WarehouseError
from penstock.warehouse.lakelog import BEGINNING, files_left, logs, read_log
from penstock.warehouse.loader import SILVER, last_entry
from penstock.warehouse.star import valid
from penstock.warehouse.target import Target, connect, warehouse_of

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class WarehouseAudit:
    """The warehouse against the lake.

    Attributes:
        log_number: The last entry of the lake's log that is loaded; in shards the highest.
        silver: Silver rows up to there.
        facts: Rows of fact_events.
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
    backend = connect(target, read_only=True)
    try:
        return bool(backend.columns("penstock_loads"))
    finally:
        backend.close()


def audit(spec: Mapping[str, Any], warehouse: str | Mapping[str, Any] | Target | None = None) -> WarehouseAudit:
    """Count the warehouse again; it is only read.

    Args:
        spec: The pipeline file, read: `name`, `lake`, `warehouse`.
        warehouse: Another warehouse than that of `spec`.

    Raises:
        LakeError: The lake is not there.
        WarehouseError: The warehouse cannot be opened, or holds no loads.
    """
    entries = {log: read_log(spec, BEGINNING, SILVER, shard) for log, shard in logs(spec).items()}
    name = str(spec["name"])
    backend = connect(warehouse_of(spec, warehouse), read_only=True)
    try:
        if not backend.columns("penstock_loads"):
            raise WarehouseError(f"warehouse {backend.place}: nothing was loaded. Run `penstock load {name}` first")
        reached = {log: last_entry(backend, log) for log in entries}
        left = [
            file
            for log, found in entries.items()
            for file in files_left(entry for entry in found if entry.number <= reached[log]).values()
        ]
        # By file: a row that was moved to another file counts as missing in one and as surplus in the other.
        loaded = dict(
            backend.rows(
                "SELECT lake_file, count(*) FROM (SELECT lake_file FROM fact_events "
                "UNION ALL SELECT lake_file FROM fact_duplicates) AS rows_loaded GROUP BY lake_file"
            )
        )
        expected = {file.number: file.rows for file in left}
        ((facts, duplicates, astray, since),) = backend.rows(
            f"""
            SELECT
                (SELECT count(*) FROM fact_events),
                (SELECT count(*) FROM fact_duplicates),
                (SELECT count(*) FROM fact_events AS f LEFT JOIN dim_user AS d ON d.user_key = f.user_key
                    WHERE d.user_key IS NULL OR d.user_id <> f.user_id OR NOT ({valid("f", "d")})),
                (SELECT count(*) FROM penstock_loads AS l WHERE event_date IS NOT NULL AND load_number > (
                    SELECT coalesce(max(load_number), 0) FROM penstock_loads WHERE event_date IS NULL))
            """
        )
    finally:
        backend.close()
    files = expected.keys() | loaded.keys()
    short = {file: expected.get(file, 0) - loaded.get(file, 0) for file in files}
    return WarehouseAudit(
        log_number=max(reached.values()),
        silver=sum(expected.values()),
        facts=facts,
        duplicates=duplicates,
        missing=sum(count for count in short.values() if count > 0),
        surplus=-sum(count for count in short.values() if count < 0),
        astray=astray,
        dates_loaded_since=since,
    )
