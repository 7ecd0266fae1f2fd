"""The checks of a day of payments: those of every pipeline, and whether what is made of the raw rows agrees."""
# ruff: noqa: S608 - what is put into the statements are names and dates of our own, never text from an event

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.errors import WarehouseError
from penstock.quality.checks import CheckResult, Rows, Thresholds
from penstock.warehouse.auditing import audit_over
from penstock.warehouse.refresh import CLEAN, HOURLY, refreshed_to

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping
    from importlib.abc import Traversable
    from pathlib import Path

    from penstock.warehouse.backend import Backend

CRITICAL = (
    "transaction_id", "user_id", "amount", "currency", "status", "event_time", "processing_time", "latency_seconds",
)  # fmt: skip
"""Columns of transactions_clean that must never be null."""


def check_payments(
    backend: Backend,
    spec: Mapping[str, Any],
    day: dt.date,
    now: dt.datetime,
    limits: Thresholds,
    dead_letters: list[tuple[str, int]],
    *,
    tables: Path | Traversable | None = None,
) -> tuple[CheckResult, ...]:
    """Check a day.

    Args:
        backend: The warehouse; only read.
        spec: The pipeline file, read.
        day: The day (UTC).
        now: The time against which freshness is measured.
        limits: From where on a check fails.
        dead_letters: The files of the dead letters.
        tables: The folder with the SQL files of the tables.

    Raises:
        WarehouseError: Nothing was loaded or refreshed.
    """
    name = str(spec["name"])
    if not backend.columns(CLEAN):
        raise WarehouseError(f"warehouse {backend.place}: it has no table {CLEAN}. Run `penstock run {name}` first")
    if refreshed_to(backend, name) is None:
        raise WarehouseError(f"warehouse {backend.place}: {CLEAN} was never made. Run `penstock refresh {name}` first")
    clean = _Clean(backend, day, CLEAN, "event_time", {column: f"{column} IS NULL" for column in CRITICAL})
    return (
        clean.freshness(now, limits),
        clean.volume(limits),
        clean.nulls(limits),
        clean.dead_letters(dead_letters, limits),
        clean.late(limits),
        _raw(backend, spec, tables),
        clean.clean(name),
        clean.hours(),
    )


def _raw(backend: Backend, spec: Mapping[str, Any], tables: Path | Traversable | None) -> CheckResult:
    """The raw table against Silver, all of it, as `penstock audit` counts it."""
    found = audit_over(backend, spec, tables)
    wrong = found.missing + found.surplus
    said = f"transactions has {found.facts} rows and Silver {found.silver}, up to entry {found.log_number} of the log"
    if wrong:
        said += f": {found.missing} are missing, {found.surplus} too many"
    return CheckResult("raw", wrong, 0, "rows", found.balanced, said)


class _Clean(Rows):
    """The clean transactions of a day."""

    def late(self, limits: Thresholds) -> CheckResult:
        """Those that took more than two minutes."""
        ((total, late),) = self.warehouse.rows(
            f"SELECT count(*), count(CASE WHEN is_late THEN 1 END) FROM {CLEAN} WHERE {self.on_the_day}"
        )
        share = late / total if total else 0.0
        return CheckResult(
            "late",
            round(share, 6),
            limits.late_share,
            "share",
            share <= limits.late_share,
            f"{late} of {total} transactions took more than two minutes, {share:.2%} "
            f"(at most {limits.late_share:.0%} expected)",
        )

    def clean(self, pipeline: str) -> CheckResult:
        """Every id of the raw rows that a refresh has seen is there, once."""
        ((rows, ids),) = self.warehouse.rows(
            f"SELECT count(*), count(DISTINCT transaction_id) FROM {CLEAN} WHERE {self.on_the_day}"
        )
        ((missing,),) = self.warehouse.rows(
            f"SELECT count(DISTINCT transaction_id) FROM transactions AS t WHERE {self.on_the_day} "
            f"AND load_number <= {refreshed_to(self.warehouse, pipeline)} "
            f"AND NOT EXISTS (SELECT 1 FROM {CLEAN} AS c WHERE c.transaction_id = t.transaction_id)"
        )
        said = f"{CLEAN} has {rows} rows with {ids} ids; {missing} ids of transactions are missing"
        return CheckResult("clean", rows - ids + missing, 0, "rows", rows == ids and not missing, said)

    def hours(self) -> CheckResult:
        """The hours of the day add up to its transactions."""
        ((hours, *shown),) = self.warehouse.rows(
            f"SELECT count(*), coalesce(sum(total_transactions), 0), coalesce(sum(total_amount), 0), "
            f"coalesce(sum(late_transactions), 0) FROM {HOURLY} "
            f"WHERE event_hour >= TIMESTAMP '{self.day}' AND event_hour < TIMESTAMP '{self.end}'"
        )
        (held,) = self.warehouse.rows(
            f"SELECT count(*), coalesce(sum(amount), 0), coalesce(sum(CASE WHEN is_late THEN 1 ELSE 0 END), 0) "
            f"FROM {CLEAN} WHERE {self.on_the_day}"
        )
        off = abs(int(shown[0]) - int(held[0]))
        said = (
            f"{hours} hours of {HOURLY} add up to {shown[0]} transactions of {shown[1]}, {shown[2]} of them late; "
            f"{CLEAN} has {held[0]} of {held[1]}, {held[2]} late"
        )
        return CheckResult("hours", off, 0, "rows", tuple(shown) == tuple(held), said)
