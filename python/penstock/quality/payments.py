"""What is checked of a day's transactions besides: how many are late, and whether the hourly metrics tell of all."""
# ruff: noqa: S608 - what is put into the statements are names and dates of our own

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.quality.checks import CheckResult, Facts

if TYPE_CHECKING:
    from penstock.quality.checks import Thresholds

CRITICAL = ("transaction_id", "user_id", "amount", "currency", "status", "event_time", "processing_time")
"""Columns of transactions_clean that must never be null."""


class Transactions(Facts):
    """The checks of `transactions_clean`."""

    table = "transactions_clean"
    at = "event_time"
    made_by = "refresh"

    def critical(self) -> dict[str, str]:
        """Columns that must never be null, each with the condition that says it is."""
        return {column: f"{column} IS NULL" for column in CRITICAL}

    def others(self, limits: Thresholds) -> tuple[CheckResult, ...]:
        """Further checks."""
        return (self.late(limits), self.hourly_metrics())

    def late(self, limits: Thresholds) -> CheckResult:
        """The day's transactions that were processed more than two minutes after they happened."""
        ((late,),) = self.warehouse.rows(f"SELECT count(*) FROM transactions_clean WHERE {self.on_the_day} AND is_late")
        total = self.count()
        share = late / total if total else 0.0
        return CheckResult(
            "late",
            round(share, 6),
            limits.late_share,
            "share",
            share <= limits.late_share,
            f"{late} of {total} transactions were late, {share:.2%} (at most {limits.late_share:.0%} expected)",
        )

    def hourly_metrics(self) -> CheckResult:
        """The raw transactions of the day against the sums of its hours: is all refreshed, and each counted once?"""
        ((raw,),) = self.warehouse.rows(
            f"SELECT count(*) FROM (SELECT transaction_id, min(event_time) AS {self.at} FROM transactions "
            f"GROUP BY transaction_id) AS first WHERE {self.on_the_day}"
        )
        on_the_day = self.on_the_day.replace(self.at, "event_hour")
        ((hours, counted),) = self.warehouse.rows(
            f"SELECT count(*), coalesce(sum(total_transactions), 0) FROM hourly_metrics WHERE {on_the_day}"
        )
        off = abs(int(raw) - int(counted))
        return CheckResult(
            "hourly_metrics",
            float(off),
            0.0,
            "transactions",
            off == 0,
            f"{hours} hours with {int(counted)} transactions, {raw} in the raw table"
            + (": run `penstock refresh`" if off else ""),
        )
