"""What tests of documents share: a warehouse with hours in it."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import duckdb

from penstock import Pipeline

if TYPE_CHECKING:
    from pathlib import Path

Hours = dict[str, tuple[int, str, int]]
"""Of each hour: transactions, amount, late ones."""

HOURS: Hours = {
    "2024-11-30T23:00:00": (4, "100.25", 1),
    "2024-12-17T12:00:00": (3, "0.10", 0),
    "2024-12-17T13:00:00": (7, "12345678901.23", 2),
}


def warehouse(file: Path, hours: Hours) -> Path:
    """Makes a warehouse that has these hours, and nothing else."""
    with duckdb.connect(str(file)) as connection:
        connection.execute(
            "CREATE OR REPLACE TABLE of_hours (event_hour TIMESTAMP, n BIGINT, amount DECIMAL(38, 2), late BIGINT)"
        )
        for hour, (n, amount, late) in hours.items():
            connection.execute(
                "INSERT INTO of_hours VALUES (?, ?, ?, ?)", [dt.datetime.fromisoformat(hour), n, Decimal(amount), late]
            )
        connection.execute(
            "CREATE OR REPLACE VIEW hourly_metrics AS SELECT event_hour, n AS total_transactions, amount AS "
            "total_amount, late AS late_transactions, late::DOUBLE / n AS late_ratio FROM of_hours"
        )
    return file


def documents(hours: Hours) -> dict[str, dict[str, Any]]:
    """What has to come of them, by id."""
    return {
        f"{hour}Z": {
            "event_hour": f"{hour}Z",
            "total_transactions": n,
            "total_amount": float(amount),
            "late_transactions": late,
            "late_ratio": late / n,
        }
        for hour, (n, amount, late) in hours.items()
    }


def payments(folder: Path, hours: Hours | None = None, **index: Any) -> Pipeline:
    """The ready-made pipeline on such a warehouse."""
    file = warehouse(folder / "payments.duckdb", HOURS if hours is None else hours)
    settings = {"warehouse.duckdb": str(file)} | {f"index.{name}": value for name, value in index.items()}
    return Pipeline.load("payments", settings, base=folder)
