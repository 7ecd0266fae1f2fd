"""Which days have facts: told without reading the facts between them."""

from __future__ import annotations

import contextlib
import datetime as dt
from typing import TYPE_CHECKING

from penstock.warehouse import connect, load
from penstock.warehouse.days import TOUCHED, record
from test_warehouse import Loaded
from warehouse_support import event, install
from warehouse_tables import Warehouses

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from services.postgres import Database

MORE_FACTS = """
INSERT INTO fact_events (
    idempotency_key, user_key, event_type, event_timestamp, user_id, lake_topic, lake_partition, lake_offset, lake_file
)
SELECT 'm' || n, user_key, event_type, TIMESTAMP '2024-01-01' + n * INTERVAL '3 minutes', user_id, 't', 0, n, lake_file
FROM fact_events, generate_series(0, 19199) AS n WHERE idempotency_key = 's1';
ANALYZE fact_events;
INSERT INTO penstock_days
SELECT 'ecommerce', DATE '2024-01-01' + n, 1 FROM generate_series(0, 40) AS n;
"""
READ = """
SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables
WHERE relname = 'fact_events' AND schemaname = current_schema()
"""


def test_a_day_costs_one_fact_in_postgresql(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    """Beyond work_mem, NOT IN of all facts in between would be days times facts."""
    lake = Loaded(tmp_path / "lake")
    lake.root.mkdir()
    install(lake, monkeypatch)
    lake.commit([event("s1", "ada", "2023-12-01T10:00:00", "user_signup")])
    warehouses = Warehouses(tmp_path, database)
    load(lake.spec(), warehouses.target())
    warehouses.run(MORE_FACTS)
    with contextlib.closing(connect(warehouses.target())) as backend:
        backend.begin()
        backend.temporary(TOUCHED, "SELECT event_date FROM penstock_days WHERE event_date >= '2024-01-01'")
        record(backend, "ecommerce", 2)
        ((read,),) = backend.rows(READ)
        days = backend.rows("SELECT event_date, load_number FROM penstock_days ORDER BY 1")
        backend.rollback()
    full = [(dt.date(2024, 1, 1) + dt.timedelta(days=n), 2) for n in range(40)]
    assert days == [(dt.date(2023, 12, 1), 1), *full], "the last day has no fact"
    assert read <= 2 * 41, "one for each day, in each of two statements"
