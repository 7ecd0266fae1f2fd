"""The dbt project, run by dbt itself on a warehouse that `load` has filled."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

from penstock.warehouse import load
from warehouse_support import Lake, at, event, install

pytest.importorskip("dbt.adapters.duckdb", reason='needs pip install "penstock[dbt]"')

PROJECT = Path(__file__).parents[1] / "dbt"


def dbt(warehouse: Path, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run dbt; what it writes goes beside the warehouse."""
    return subprocess.run(
        [
            sys.executable, "-c", "from dbt.cli.main import cli; cli()", "--no-use-colors", "--warn-error",
            "--log-path", str(warehouse.parent / "logs"), *command,
            "--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT),
            "--target-path", str(warehouse.parent / "target"),
        ],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PENSTOCK_WAREHOUSE": str(warehouse), "TZ": "America/Los_Angeles"} | env,
    )  # fmt: skip


def results(warehouse: Path) -> dict[str, str]:
    """What became of each node in the run before, by its name."""
    run = json.loads((warehouse.parent / "target/run_results.json").read_text())
    return {result["unique_id"]: result["status"] for result in run["results"]}


def query(warehouse: Path, sql: str) -> list[tuple[Any, ...]]:
    """Ask the warehouse."""
    with duckdb.connect(str(warehouse), read_only=True) as con:
        return con.execute(sql).fetchall()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse with a few users, loaded and built."""
    folder = tmp_path_factory.mktemp("dbt")
    lake = Lake(folder / "lake")
    lake.root.mkdir()
    rows = [
        event("s1", "ada", "2024-12-01T10:00:00", "user_signup", plan_type="free"),
        event("p1", "ada", "2024-12-01T23:59:59", "purchase", amount=Decimal("10.00")),
        event("p2", "ada", "2024-12-02T00:00:00", "purchase", amount=Decimal("5.01")),
        event("s2", "ada", "2024-12-02T10:00:00", "user_signup", plan_type="premium"),
        event("f1", "ada", "2024-12-02T11:00:00", "payment_failed", amount=Decimal("99.00")),
        event("v1", "bob", "2024-12-09T09:00:00"),
        event("p3", "eve", "2024-12-16T09:00:00", "purchase", amount=Decimal("1.00"), currency="USD"),
        event("p4", "eve", "2024-12-16T09:00:00", "purchase", amount=Decimal("2.00"), currency="EUR"),
    ]
    lake.commit(rows)
    with pytest.MonkeyPatch.context() as patch:
        install(lake, patch)
        load(lake.spec())
    path = folder / "warehouse.duckdb"
    done = dbt(path, "build")
    assert done.returncode == 0, done.stdout
    return path


def test_everything_is_built_and_every_test_passes(built: Path) -> None:
    status = results(built)
    kinds = {name.split(".")[0] for name in status}
    assert {"model", "test", "unit_test"} <= kinds
    assert set(status.values()) <= {"success", "pass", "no-op"}


def test_the_unit_tests_pass_under_any_name_of_a_pipeline(built: Path) -> None:
    done = dbt(built, "test", "--select", "test_type:unit", "--vars", "pipeline: shop")
    assert done.returncode == 0, done.stdout
    assert "a_day_ends_at_midnight_and_a_user_counts_once" in done.stdout


def test_daily_active_users(built: Path) -> None:
    assert query(
        built,
        "SELECT activity_date, daily_active_users, total_events, purchases, failed_payments "
        "FROM daily_active_users ORDER BY 1",
    ) == [
        (dt.date(2024, 12, 1), 1, 2, 1, 0),
        (dt.date(2024, 12, 2), 1, 3, 1, 1),
        (dt.date(2024, 12, 9), 1, 1, 0, 0),
        (dt.date(2024, 12, 16), 1, 2, 2, 0),
    ]


def test_revenue_per_user(built: Path) -> None:
    assert query(
        built,
        "SELECT user_id, plan_type, currency, purchase_count, lifetime_value, average_order_value "
        "FROM revenue_per_user ORDER BY 1, 3",
    ) == [
        ("ada", "premium", "EUR", 2, Decimal("15.01"), Decimal("7.51")),
        ("bob", None, None, 0, Decimal("0.00"), None),
        ("eve", None, "EUR", 1, Decimal("2.00"), Decimal("2.00")),
        ("eve", None, "USD", 1, Decimal("1.00"), Decimal("1.00")),
    ]


def test_churn_risk(built: Path) -> None:
    newest = at("2024-12-16T09:00:00").replace(tzinfo=None)
    rows = query(built, "SELECT user_id, plan_type, days_inactive, risk_level, as_of FROM churn_risk ORDER BY 1")
    assert rows == [
        ("ada", "premium", 13, "low", newest),
        ("bob", None, 7, "low", newest),
    ]


def test_docs_are_generated(built: Path) -> None:
    made = dbt(built, "docs", "generate")
    assert made.returncode == 0, made.stdout
    catalog = json.loads((built.parent / "target/catalog.json").read_text())
    assert "model.penstock.revenue_per_user" in catalog["nodes"]
    manifest = json.loads((built.parent / "target/manifest.json").read_text())
    models = [node for node in manifest["nodes"].values() if node["resource_type"] == "model"]
    undescribed = [model["name"] for model in models if not model["description"]]
    assert undescribed == []


def test_the_postgres_target_parses(built: Path) -> None:
    pytest.importorskip("dbt.adapters.postgres")
    parsed = dbt(built, "parse", "--target", "postgres")
    assert parsed.returncode == 0, parsed.stdout


DAMAGE = {
    "events_stand_on_the_valid_row_of_their_user": (
        "UPDATE fact_events SET user_key = (SELECT user_key FROM dim_user WHERE user_id = 'eve') "
        "WHERE idempotency_key = 'p1'"
    ),
    "histories_have_neither_gap_nor_overlap": (
        "UPDATE dim_user SET effective_end_date = TIMESTAMP '2024-12-02 09:00:00' "
        "WHERE user_id = 'ada' AND NOT is_current"
    ),
    "relationships_stg_events_user_key": "DELETE FROM dim_user WHERE user_id = 'bob'",
    "stg_events_purchases_have_an_amount": (
        "UPDATE fact_events SET purchase_amount = NULL WHERE idempotency_key = 'p1'"
    ),
}


def test_a_broken_warehouse_is_noticed(built: Path, tmp_path: Path) -> None:
    broken = tmp_path / "warehouse.duckdb"
    broken.write_bytes(built.read_bytes())
    with duckdb.connect(str(broken)) as con:
        for damage in DAMAGE.values():
            con.execute(damage)
    assert dbt(broken, "test", "--select", "staging").returncode == 1
    failed = [name for name, status in results(broken).items() if status == "fail"]
    for test in DAMAGE:
        assert any(test in name for name in failed), (test, failed)
