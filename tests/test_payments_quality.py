"""The checks of a day of payments: what is wrong is seen, named and told; what is right passes."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest

from payments_lake import PaymentsLake, install, transaction
from penstock.errors import WarehouseError
from penstock.quality import CheckResult, QualityReport, run_checks
from penstock.quality.alert import text_of
from penstock.warehouse import load
from penstock.warehouse.refresh import refresh
from test_cli import cli, found
from warehouse_support import UTC, at
from warehouse_tables import KINDS, Warehouses

if TYPE_CHECKING:
    from pathlib import Path

DAY = "2024-12-17"
NAMES = ["freshness", "volume", "nulls", "dead_letters", "late", "raw", "clean", "hours"]


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PaymentsLake:
    """A day before, and a day with an event every quarter of an hour, four of them late."""
    made = PaymentsLake(tmp_path / "lake")
    made.root.mkdir()
    install(made, monkeypatch)
    for day in range(2):
        midnight = at("2024-12-16T00:00:00") + dt.timedelta(days=day)
        times = [midnight + dt.timedelta(minutes=15 * n) for n in range(96)]
        late = [dt.timedelta(seconds=121 if n < 4 else 120) for n in range(96)]
        rows = [transaction(100 * day + n, times[n], processing_time=times[n] + late[n]) for n in range(96)]
        made.add(rows)
    return made


@pytest.fixture(params=KINDS)
def warehouses(request: pytest.FixtureRequest, tmp_path: Path, lake: PaymentsLake) -> Warehouses:
    """A warehouse of either kind, loaded and refreshed."""
    made = Warehouses(tmp_path, request.getfixturevalue("database") if request.param == "postgres" else None)
    load(lake.spec(made.target()))
    refresh(lake.spec(made.target()))
    return made


def report(lake: PaymentsLake, warehouses: Warehouses) -> QualityReport:
    """What the checks say at the end of the day."""
    now = dt.datetime(2024, 12, 18, 2, tzinfo=UTC)
    return run_checks(lake.spec(warehouses.target()), DAY, now=now)


def checks(lake: PaymentsLake, warehouses: Warehouses) -> dict[str, CheckResult]:
    """The same by name."""
    return {check.name: check for check in report(lake, warehouses).checks}


def test_a_good_day_passes_and_more_late_ones_than_one_in_twenty_do_not(
    lake: PaymentsLake, warehouses: Warehouses
) -> None:
    seen = checks(lake, warehouses)
    assert list(seen) == NAMES
    assert all(check.passed for check in seen.values()), seen
    assert seen["late"].message.startswith("4 of 96 transactions took more than two minutes, 4.17%")
    slow = at("2024-12-17T12:00:01")
    lake.add([transaction(300, slow, processing_time=slow + dt.timedelta(hours=1))])
    load(lake.spec(warehouses.target()))
    # What is not refreshed yet is no fault.
    assert report(lake, warehouses).passed
    refresh(lake.spec(warehouses.target()))
    told = report(lake, warehouses)
    assert [check.name for check in told.failed] == ["late"]
    assert "*late*: 5 of 97 transactions took more than two minutes, 5.15% (at most 5% expected)" in text_of(told)


@pytest.mark.parametrize(
    ("statement", "failed"),
    [
        ("DELETE FROM transactions WHERE event_time = TIMESTAMP '2024-12-16 00:00:00'", {"raw": 1}),
        ("DELETE FROM transactions_clean WHERE event_time >= TIMESTAMP '2024-12-17 23:30:00'", {"clean": 2}),
        (
            (
                "CREATE OR REPLACE VIEW hourly_metrics AS SELECT event_hour, count(*) AS total_transactions, "
                "CAST(sum(amount) AS DECIMAL(38, 2)) AS total_amount, CAST(0 AS BIGINT) AS late_transactions, "
                "CAST(0 AS DOUBLE PRECISION) AS late_ratio FROM transactions_clean WHERE false GROUP BY event_hour"
            ),
            {"hours": 96},
        ),
        ("UPDATE transactions_clean SET processing_time = NULL, latency_seconds = NULL", {"nulls": 1}),
    ],
)
def test_tables_that_do_not_agree(
    lake: PaymentsLake, warehouses: Warehouses, statement: str, failed: dict[str, int]
) -> None:
    warehouses.run(statement)
    seen = checks(lake, warehouses)
    assert {name: check.value for name, check in seen.items() if not check.passed} == failed


def test_what_was_never_refreshed_is_said(lake: PaymentsLake, tmp_path: Path) -> None:
    warehouses = Warehouses(tmp_path)
    load(lake.spec(warehouses.target()))
    with pytest.raises(WarehouseError, match=r"never made. Run `penstock refresh payments` first"):
        report(lake, warehouses)


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    files = ("--set", "source.files.paths=in/*.jsonl")
    made = ("--total-events", 2_000, "--bad-data-rate", 0, "--to", "in/t.jsonl")
    truth = found("produce", "payments", *made, cwd=tmp_path)
    found("run", "payments", "--until-caught-up", *files, cwd=tmp_path)
    assert found("refresh", "payments", cwd=tmp_path)["transactions_clean"]["rows"] == truth["expected"]["silver"]
    done = cli("quality", "payments", "--date", DAY, "--json", cwd=tmp_path)
    assert done.returncode in (0, 1), done.stderr
    assert all(f'"{name}"' in done.stdout for name in NAMES)
