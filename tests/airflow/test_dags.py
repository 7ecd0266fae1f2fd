"""The DAGs that Penstock brings: read without anything at hand, and run whole."""

from __future__ import annotations

import datetime as dt
import json
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pytest

from penstock.airflow import manifest
from penstock.generate import generate
from penstock.resources import copy_out, dbt_project

if TYPE_CHECKING:
    from conftest import Airflow

ROOT = Path(__file__).parents[2]
DAGS = ROOT / "dags"
FILES = sorted(path.name for path in DAGS.glob("*.py"))
UTC = dt.timezone.utc
HEAVY = {
    "penstock._core",
    "penstock.pipeline",
    "penstock.warehouse",
    "duckdb",
    "dbt",
    "pyarrow",
    "adbc_driver_postgresql",
}

READ = """
import os, runpy, sys, time

def audit(event, arguments):
    if event.startswith("socket.") and event != "socket.gethostname" and event != "socket.__new__":
        raise OSError(f"a file of DAGs opens a connection: {event} {arguments}")

import airflow.sdk
sys.addaudithook(audit)
before = time.process_time()
found = runpy.run_path(sys.argv[1])
print("CPU", round(time.process_time() - before, 2), file=sys.stderr)
dag = next(value for value in found.values() if type(value).__name__ == "DAG")
print(dag.dag_id, *sys.modules)
"""


@pytest.mark.parametrize("file", FILES)
def test_a_dag_file_needs_nothing_to_be_read(file: str) -> None:
    done = subprocess.run([sys.executable, "-c", READ, str(DAGS / file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    name, *modules = done.stdout.splitlines()[-1].split()
    assert name == file.removesuffix(".py")
    assert not set(modules) & HEAVY


@pytest.mark.parametrize("file", FILES)
def test_a_dag_file_is_thin(file: str) -> None:
    text = (DAGS / file).read_text()
    assert len(text.splitlines()) <= 80 and "doc_md=__doc__" in text


def test_the_manifest_is_that_of_the_models(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from dbt.cli.main import cli; cli()", "--quiet", "parse", "--profiles-dir", "."]
    project = dbt_project()
    subprocess.run([*command, "--target-path", str(tmp_path)], cwd=project, check=True, capture_output=True)
    found = manifest.text(json.loads((tmp_path / "manifest.json").read_text()))
    assert (project / "manifest.json").read_text() == found, "stale: run `make dbt-manifest`"


class Project:
    """What `penstock init ecommerce` makes, with events in a file in the place of Kafka."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        copy_out("ecommerce", folder)
        (folder / "in").mkdir()
        file = folder / "pipeline.yaml"
        source = 'source:\n  files: {paths: ["in/*.jsonl"], bounded: true}\n'
        file.write_text(re.sub(r"(?ms)^source:.*?(?=^[a-z])", source, file.read_text()))
        # The run is about the day before the last 02:00 UTC: events up to then, and of the week before.
        self.yesterday = (dt.datetime.now(UTC) - dt.timedelta(hours=26)).date()
        start = (self.yesterday - dt.timedelta(days=7)).isoformat()
        options = {"total": 4000, "seed": 7, "bad_rate": 0.005, "start": start, "span": "8d"}
        self.truth = generate("ecommerce", folder / "in" / "events.jsonl", progress=False, **options)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.folder / "warehouse.duckdb"), read_only=True) as tables:
            return tables.execute(query).fetchall()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("AIRFLOW__PENSTOCK__PROJECT", str(tmp_path))
    return Project(tmp_path)


@pytest.mark.slow
def test_ecommerce_daily(airflow: Airflow, project: Project) -> None:
    """From events to marts that are checked, as the truth says; the same again changes nothing."""
    dag = (DAGS / "ecommerce_daily.py").read_text()
    truth = project.truth["expected"]
    everything: list[Any] = []
    for skip in (None, r"dbt_test\..*"):
        ran = airflow.run(dag, name="ecommerce_daily", retries=0, skip=skip)
        assert set(ran.states.values()) == {"success"}, ran.log[-6000:]
        ledger = ran.xcom("drain")
        assert (ledger["silver"], ledger["pending"], ledger["balanced"]) == (truth["silver"], 0, True)
        assert ran.xcom("data_quality")["date"] == project.yesterday.isoformat()
        found = project.rows("SELECT count(*), sum(purchase_amount) FROM fact_events")
        assert found == [(truth["silver"], Decimal(project.truth["purchase_amount"]))]
        assert project.rows("SELECT sum(total_events) FROM daily_active_users") == [(truth["silver"],)]
        tables = ("daily_active_users", "revenue_per_user", "churn_risk", "fact_events", "dim_user")
        everything.append([project.rows(f"SELECT * FROM {table} ORDER BY ALL") for table in tables])
    assert everything[0] == everything[1]
