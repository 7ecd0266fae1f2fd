"""One dbt project on both databases: equal marts from equal lakes, built whole and day by day."""

from __future__ import annotations

import datetime as dt
import json
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from penstock.warehouse import load
from services.postgres import Database
from test_dbt import PROJECT
from test_warehouse import Loaded
from warehouse_support import at, event, install
from warehouse_tables import KINDS, Warehouses

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.postgres import PostgresServer

MARTS = ("churn_risk", "daily_active_users", "revenue_per_user")
TYPES = {
    "text": {"text", "VARCHAR"},
    "bigint": {"bigint", "BIGINT"},
    "date": {"date", "DATE"},
    "timestamp": {"timestamp without time zone", "TIMESTAMP"},
    "decimal(18, 2)": {"numeric", "DECIMAL(18,2)"},
    "decimal(12, 2)": {"numeric", "DECIMAL(12,2)"},
}


class Twins:
    """One lake in two warehouses, and dbt on each of them.

    Attributes:
        first: The marts of the first build, by database.
        ran: What became of each node in it.
    """

    first: dict[str, dict[str, list[tuple[Any, ...]]]]
    ran: dict[str, dict[str, str]]

    def __init__(self, folder: Path, server: PostgresServer) -> None:
        self.lake = Loaded(folder / "lake")
        self.lake.root.mkdir()
        database = Database(server, server.database())
        self.warehouses = {"duckdb": Warehouses(folder), "postgres": Warehouses(folder, database)}
        self.folder = folder
        self.env = os.environ | {
            "PENSTOCK_WAREHOUSE": str(folder / "warehouse.duckdb"),
            "PENSTOCK_PG_SCHEMA": "warehouse",
            "PGHOST": "127.0.0.1",
            "PGPORT": str(server.port),
            "PGUSER": "postgres",
            "PGDATABASE": database.name,
            "TZ": "America/Los_Angeles",
        }

    def load(self, date: str | None = None) -> None:
        """Load what is new, or a day again, into both."""
        for kind in KINDS:
            load(self.lake.spec(), self.warehouses[kind].target(), date=date)

    def dbt(self, kind: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run dbt on one of them; what it writes goes into a folder of its kind."""
        return subprocess.run(
            [
                sys.executable, "-c", "from dbt.cli.main import cli; cli()", "--no-use-colors", "--warn-error",
                "--log-path", str(self.folder / kind), *command, "--target", kind,
                "--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT),
                "--target-path", str(self.folder / kind),
            ],
            check=False,
            capture_output=True,
            text=True,
            env=self.env,
        )  # fmt: skip

    def build(self, *command: str) -> None:
        """Run dbt on both at once; both have to end well."""
        with ThreadPoolExecutor(len(KINDS)) as pool:
            for done in pool.map(lambda kind: self.dbt(kind, *command), KINDS):
                assert done.returncode == 0, done.stdout

    def results(self, kind: str) -> dict[str, str]:
        """What became of each node in the run before, by its name."""
        results = json.loads((self.folder / kind / "run_results.json").read_text())["results"]
        return {result["unique_id"]: result["status"] for result in results}

    def marts(self, kind: str, *marts: str) -> dict[str, list[tuple[Any, ...]]]:
        """The rows of marts (of all unless named)."""
        return self.warehouses[kind].everything(tables=marts or MARTS)


@pytest.fixture(scope="module")
def twins(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    """Both loaded with the same, and built."""
    made = Twins(tmp_path_factory.mktemp("twins"), postgres)
    made.lake.commit(
        [
            event("s1", "ada", "2024-12-01T10:00:00", "user_signup", plan_type="free"),
            event("p1", "ada", "2024-12-01T23:59:59.999999", "purchase", amount=Decimal("10.00")),
            event("p2", "ada", "2024-12-02T00:00:00", "purchase", amount=Decimal("5.01")),
            event("s2", "ada", "2024-12-02T10:00:00", "user_signup", plan_type="premium"),
            event("f1", "ada", "2024-12-02T11:00:00", "payment_failed", amount=Decimal("99.00")),
            event("v1", "bob", "2024-12-09T09:00:00", session_id=None),
            event("p3", "eve", "2024-12-16T09:00:00", "purchase", amount=Decimal("1.00"), currency="USD"),
            event("p4", "eve", "2024-12-16T09:00:00", "purchase", amount=Decimal("2.00"), currency="EUR"),
        ]
    )
    with pytest.MonkeyPatch.context() as patch:
        install(made.lake, patch)
        made.load()
        made.build("build")
        # Other tests go on from here, and some of them may be first.
        made.first = {kind: made.marts(kind) for kind in KINDS}
        made.ran = {kind: made.results(kind) for kind in KINDS}
        yield made


def test_equal_marts_stand_in_both(twins: Twins) -> None:
    duckdb, postgres = twins.first["duckdb"], twins.first["postgres"]
    assert duckdb == postgres
    assert [len(duckdb[mart]) for mart in MARTS] == [2, 4, 4]


def test_every_test_was_run_on_both(twins: Twins) -> None:
    ran = twins.ran
    assert ran["duckdb"] == ran["postgres"]
    assert {name.split(".")[0] for name in ran["postgres"]} >= {"model", "test", "unit_test", "exposure"}
    assert set(ran["postgres"].values()) <= {"success", "pass", "no-op"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_contracts_hold_in_the_tables(twins: Twins, kind: str) -> None:
    nodes = json.loads((twins.folder / kind / "manifest.json").read_text())["nodes"].values()
    marts = {node["name"]: node for node in nodes if node["resource_type"] == "model" and node["name"] in MARTS}
    assert all(node["contract"]["enforced"] for node in marts.values())
    for name, node in marts.items():
        found = twins.warehouses[kind].rows(
            "SELECT column_name, data_type FROM information_schema.columns "
            f"WHERE table_schema IN ('main', 'warehouse') AND table_name = '{name}' ORDER BY ordinal_position"
        )
        assert {column for column, _ in found} == set(node["columns"])
        assert all(is_type in TYPES[node["columns"][column]["data_type"]] for column, is_type in found)


def test_freshness_is_asked_on_postgresql(twins: Twins) -> None:
    """The load is of today; the events are of 2024."""
    asked = twins.dbt("postgres", "source", "freshness")
    assert asked.returncode == 1
    found = json.loads((twins.folder / "postgres/sources.json").read_text())["results"]
    status = {result["unique_id"].rsplit(".", maxsplit=1)[-1]: result["status"] for result in found}
    assert status == {"fact_events": "error", "penstock_loads": "pass"}


def daily(twins: Twins) -> list[list[tuple[Any, ...]]]:
    """The rows of `daily_active_users` in both."""
    return [twins.marts(kind, "daily_active_users")["daily_active_users"] for kind in KINDS]


def change_both(twins: Twins, sql: str) -> None:
    """Somebody changes `daily_active_users` in both."""
    for kind in KINDS:
        twins.warehouses[kind].run(sql)


def test_a_table_of_the_earlier_form_is_taken_over(twins: Twins) -> None:
    """It was made whole each time, and had no numbers of loads."""
    before = daily(twins)
    change_both(twins, "ALTER TABLE daily_active_users DROP COLUMN load_number")
    change_both(twins, "UPDATE daily_active_users SET sessions = 99")
    change_both(twins, "INSERT INTO daily_active_users (activity_date, total_events) VALUES (DATE '2020-01-01', 1)")
    twins.build("run", "--select", "daily_active_users")
    assert daily(twins) == before


def test_a_day_that_is_there_twice_is_made_anew_once(twins: Twins) -> None:
    """Two runs of dbt at once may leave it so, with one number or with two."""
    before = daily(twins)
    twice = "INSERT INTO daily_active_users SELECT * FROM daily_active_users WHERE activity_date "
    change_both(twins, twice + "< DATE '2024-12-09'")
    change_both(twins, "UPDATE daily_active_users SET load_number = 0 WHERE activity_date = DATE '2024-12-01'")
    change_both(twins, twice + "= DATE '2024-12-09'")
    change_both(
        twins,
        "INSERT INTO daily_active_users (activity_date, load_number) "
        "SELECT activity_date, load_number + 1 FROM daily_active_users WHERE activity_date = DATE '2024-12-16'",
    )
    twins.build("run", "--select", "daily_active_users")
    assert daily(twins) == before


def test_the_name_of_no_pipeline_takes_nothing_away(twins: Twins) -> None:
    before = daily(twins)
    done = twins.dbt("postgres", "run", "--select", "daily_active_users", "--vars", "pipeline: another")
    assert done.returncode == 0, done.stdout
    assert daily(twins) == before


DAYS = [dt.date(2024, 12, 10) + dt.timedelta(days=n) for n in range(6)]


def change(lake: Loaded, draw: random.Random, number: int) -> None:
    """Something comes to the lake, and something may go, whole days of it too."""
    gone = draw.sample(sorted(lake.rows), k=min(len(lake.rows), draw.randrange(3)))
    kinds = ("page_view", "purchase", "user_signup", "payment_failed")
    lake.commit(
        [
            event(
                f"k{draw.randrange(40)}" if draw.random() < 0.2 else f"{number}-{n}",
                draw.choice(("ada", "bob", "eve", "kim")),
                at(f"{draw.choice(DAYS)}T{draw.randrange(24):02}:00:00"),
                draw.choice(kinds),
            )
            for n in range(draw.randrange(1, 5))
        ],
        removed=gone,
    )


@pytest.mark.slow
def test_day_by_day_is_as_all_at_once(twins: Twins) -> None:
    """After any loads, of the log and of single days, with files that went, and with runs of dbt left out."""
    draw, lake = random.Random(7), twins.lake
    before = twins.marts("postgres", "daily_active_users")["daily_active_users"]
    for number in range(2):
        for more in range(2):
            change(lake, draw, 10 * number + more)
            twins.load(str(draw.choice(DAYS)) if draw.random() < 0.3 else None)
        if number == 1:
            # The only event of a day goes, and with it the day.
            twins.load()
            lake.commit([], removed=[path for path in lake.rows if "date=2024-12-09" in path])
        twins.load()
        whole = twins.warehouses["postgres"].rows(
            "SELECT CAST(event_timestamp AS DATE), count(DISTINCT user_id), count(DISTINCT session_id), count(*), "
            "count(CASE WHEN event_type = 'purchase' THEN 1 END) FROM fact_events GROUP BY 1 ORDER BY 1"
        )
        days = {day: number for _, day, number in twins.warehouses["postgres"].everything()["penstock_days"]}
        stays = [row for row in before if days.get(row[0]) == row[-1]]
        at_place = "SELECT activity_date, xmin::text, ctid::text FROM daily_active_users"
        places = {day: place for day, *place in twins.warehouses["postgres"].rows(at_place)}
        twins.build("run", "--select", "daily_active_users")
        found = twins.marts("postgres", "daily_active_users")["daily_active_users"]
        assert [(row[0], row[1], row[2], row[3], row[6]) for row in found] == whole
        assert twins.marts("duckdb", "daily_active_users")["daily_active_users"] == found
        now = {day: place for day, *place in twins.warehouses["postgres"].rows(at_place)}
        assert all(now[row[0]] == places[row[0]] for row in stays), "what no load has touched is not written again"
        assert len(stays) < len(before), "something was touched"
        before = found
    assert dt.date(2024, 12, 9) not in {row[0] for row in before}
    assert any(day[0] not in DAYS for day in before), "some days were never touched"
    twins.build("run", "--select", "daily_active_users", "--full-refresh")
    for kind in KINDS:
        assert twins.marts(kind, "daily_active_users")["daily_active_users"] == before
