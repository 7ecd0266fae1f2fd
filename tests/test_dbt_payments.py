"""The tables of payments as sources of the dbt project: tested where they are, unseen where they are not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from payments_lake import PaymentsLake, install, transaction
from penstock.warehouse import load
from penstock.warehouse.refresh import refresh
from test_dbt import PROJECT
from warehouse_support import at
from warehouse_tables import KINDS, Warehouses

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("dbt.adapters.duckdb", reason='needs pip install "penstock[dbt]"')

ON = ("--vars", "payments: true")


def dbt(folder: Path, kind: str, *command: str, **env: str) -> tuple[int, dict[str, str]]:
    """Run dbt; what became of each node, by its name."""
    done = subprocess.run(
        [
            sys.executable, "-c", "from dbt.cli.main import cli; cli()", "--no-use-colors", "--warn-error",
            "--log-path", str(folder / "logs"), *command, "--target", kind,
            "--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT), "--target-path", str(folder / "target"),
        ],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PENSTOCK_WAREHOUSE": str(folder / "warehouse.duckdb"), "TZ": "America/Los_Angeles"} | env,
    )  # fmt: skip
    ran = folder / "target" / "run_results.json"
    results: list[dict[str, Any]] = json.loads(ran.read_text())["results"] if ran.exists() else []
    assert results or done.returncode == 0, done.stdout
    return done.returncode, {result["unique_id"].split(".")[2]: result["status"] for result in results}


@pytest.mark.parametrize("kind", KINDS)
def test_the_tables_of_payments_are_tested(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    lake = PaymentsLake(tmp_path / "lake")
    lake.root.mkdir()
    install(lake, monkeypatch)
    lake.add([transaction(n, at(f"2024-12-17T{n:02}:00:00")) for n in range(5)])
    env: dict[str, str] = {}
    database = None
    if kind == "postgres":
        database = request.getfixturevalue("database")
        env = {"PGHOST": "127.0.0.1", "PGPORT": str(database.server.port), "PGUSER": "postgres"}
        env |= {"PGDATABASE": database.name, "PENSTOCK_PG_SCHEMA": "warehouse"}
    warehouses = Warehouses(tmp_path, database)
    load(lake.spec(warehouses.target()))
    refresh(lake.spec(warehouses.target()))
    code, found = dbt(tmp_path, kind, "test", "--select", "source:payments", *ON, **env)
    assert code == 0 and set(found.values()) == {"pass"}, found
    assert {"transactions_are_there_once", "hourly_metrics_fit", "every_transaction_counts_in_its_hour"} <= set(found)
    manifest = json.loads((tmp_path / "target" / "manifest.json").read_text())
    (exposure,) = [one for one in manifest["exposures"].values() if one["name"] == "payments_by_the_hour"]
    assert exposure["depends_on"]["nodes"] == ["source.penstock.payments.hourly_metrics"]
    assert dbt(tmp_path, kind, "source", "freshness", "--select", "source:payments", *ON, **env)[0] == 1
    freshness = json.loads((tmp_path / "target" / "sources.json").read_text())["results"]
    assert {one["unique_id"].split(".")[-1]: one["status"] for one in freshness} == dict.fromkeys(
        ("transactions", "transactions_clean"), "error"
    )
    warehouses.run("UPDATE transactions_clean SET currency = 'XXX'")
    code, found = dbt(tmp_path, kind, "test", "--select", "source:payments", *ON, **env)
    failed = {name for name, status in found.items() if status == "fail"}
    assert code == 1 and any("accepted_values" in name and "currency" in name for name in failed), found


def test_who_has_no_payments_sees_nothing_of_them(tmp_path: Path) -> None:
    assert dbt(tmp_path, "duckdb", "parse")[0] == 0
    manifest = json.loads((tmp_path / "target" / "manifest.json").read_text())
    active = [*manifest["nodes"], *manifest["sources"], *manifest["exposures"]]
    assert active and not [name for name in active if "payments" in name or "transactions" in name]
