"""Which days' facts a load has touched: what is made of the facts by day has to be made anew for those alone."""
# ruff: noqa: S608 - what is put into the statements are names, numbers and dates of our own, or quoted

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.warehouse.duckdb_backend import quoted

if TYPE_CHECKING:
    import datetime as dt

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
    warehouse.change(f"""
        DELETE FROM penstock_days
        WHERE pipeline = {quoted(pipeline)} AND event_date IN (SELECT event_date FROM {TOUCHED})
            AND NOT {_has_facts(warehouse, "penstock_days", first, last)}
    """)
    warehouse.change(f"""
        INSERT INTO penstock_days (pipeline, event_date, load_number)
        SELECT {quoted(pipeline)}, event_date, {load_number} FROM {TOUCHED}
        WHERE {_has_facts(warehouse, TOUCHED, first, last)}
        ON CONFLICT (pipeline, event_date) DO UPDATE SET load_number = excluded.load_number
    """)


def _has_facts(warehouse: Backend, table: str, first: dt.date, last: dt.date) -> str:
    """Whether the day in a row of `table` has a fact.

    In PostgreSQL the index finds one for each day: NOT IN of more facts than fit into memory is days times facts.
    DuckDB has none, and would compare all days with all facts: there it is one scan of what lies between the two days.
    """
    if warehouse.kind == "postgres":
        return f"""EXISTS (
            SELECT FROM fact_events WHERE event_timestamp >= {table}.event_date
                AND event_timestamp < {table}.event_date + INTERVAL '1 day'
        )"""
    return f"""{table}.event_date IN (
        SELECT CAST(event_timestamp AS DATE) FROM fact_events
        WHERE event_timestamp >= TIMESTAMP '{first} 00:00:00'
            AND event_timestamp < TIMESTAMP '{last} 00:00:00' + INTERVAL '1 day'
    )"""
