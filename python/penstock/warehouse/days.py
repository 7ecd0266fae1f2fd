"""Which days' facts a load has touched: what is made of the facts by day has to be made anew for those alone."""
# ruff: noqa: S608 - what is put into the statements are names, numbers and dates of our own, or quoted

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.warehouse.duckdb_backend import quoted

if TYPE_CHECKING:
    from penstock.warehouse.backend import Backend

TOUCHED = "touched_days"
"""A temporary table: the days of the facts that a load writes, replaces or removes."""


def find(warehouse: Backend) -> None:
    """Fill `touched_days`; before the facts change, with `stage`, `gone` and `known` made."""
    warehouse.temporary(
        TOUCHED,
        """
        SELECT CAST(event_timestamp AS DATE) AS event_date FROM stage
        UNION
        SELECT event_date FROM gone
        UNION
        SELECT event_date FROM known
        """,
    )


def record(warehouse: Backend, pipeline: str, load_number: int) -> None:
    """Bring penstock_days in line with the facts: touched days get this load's number, days without facts go."""
    ((first, last),) = warehouse.rows(f"SELECT min(event_date), max(event_date) FROM {TOUCHED}")
    if first is None:
        return
    have_facts = f"""event_date IN (
        SELECT CAST(event_timestamp AS DATE) FROM fact_events
        WHERE event_timestamp >= TIMESTAMP '{first} 00:00:00'
            AND event_timestamp < TIMESTAMP '{last} 00:00:00' + INTERVAL '1 day'
    )"""
    warehouse.change(f"""
        DELETE FROM penstock_days
        WHERE pipeline = {quoted(pipeline)} AND event_date IN (SELECT event_date FROM {TOUCHED}) AND NOT {have_facts}
    """)
    warehouse.change(f"""
        INSERT INTO penstock_days (pipeline, event_date, load_number)
        SELECT {quoted(pipeline)}, event_date, {load_number} FROM {TOUCHED} WHERE {have_facts}
        ON CONFLICT (pipeline, event_date) DO UPDATE SET load_number = excluded.load_number
    """)
