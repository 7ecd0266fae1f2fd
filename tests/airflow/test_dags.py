"""The DAGs that Penstock brings: read without anything at hand, and run whole."""

from __future__ import annotations

import datetime as dt
import json
import random
import re
import subprocess
import sys
import threading
import uuid
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pytest

import penstock
from penstock.airflow import manifest
from penstock.generate import generate
from penstock.resources import copy_out, dbt_project
from penstock.warehouse import load

if TYPE_CHECKING:
    from conftest import Airflow
    from services.kafka import KafkaBroker
    from services.postgres import Database

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


TABLES = ("daily_active_users", "revenue_per_user", "churn_risk", "fact_events", "dim_user")


class Project:
    """What `penstock init ecommerce` makes, with events in a file in the place of Kafka."""

    def __init__(self, folder: Path, total: int = 4000, bad_rate: float = 0.005) -> None:
        self.folder = folder
        copy_out("ecommerce", folder)
        (folder / "in").mkdir()
        file = folder / "pipeline.yaml"
        source = 'source:\n  files: {paths: ["in/*.jsonl"], bounded: true}\n'
        file.write_text(re.sub(r"(?ms)^source:.*?(?=^[a-z])", source, file.read_text()))
        # The run is about the day before the last 02:00 UTC: events up to then, and of the week before.
        self.yesterday = (dt.datetime.now(UTC) - dt.timedelta(hours=26)).date()
        start = (self.yesterday - dt.timedelta(days=7)).isoformat()
        options = {"total": total, "seed": 7, "bad_rate": bad_rate, "start": start, "span": "8d"}
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
        everything.append([project.rows(f"SELECT * FROM {table} ORDER BY ALL") for table in TABLES])
    assert everything[0] == everything[1]


def everything(project: Project) -> tuple[Any, ...]:
    """Silver and the facts, but for where they lie."""
    lake = project.folder / "lake"
    layers = [penstock.read_lake(lake, f"silver/{name}").to_pyarrow() for name in ("events", "sessions")]
    assert all(layer.num_rows for layer in layers)
    rows = [sorted(map(repr, duckdb.from_arrow(layer).fetchall())) for layer in layers]
    columns = [name for (name,) in project.rows(FACT_COLUMNS) if name not in PLACES]
    return (*rows, project.rows(f"SELECT {', '.join(columns)} FROM fact_events ORDER BY ALL"))


@pytest.mark.slow
def test_ecommerce_daily_from_kafka_into_postgresql(
    airflow: Airflow,
    project: Project,
    connection: Any,
    kafka_broker: KafkaBroker,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All that is outside is reached by connections; the rows are those of the truth, also the second time."""
    topic = kafka_broker.create_topic(f"daily-{project.folder.name}", partitions=2)
    lines = (project.folder / "in" / "events.jsonl").read_bytes().split(b"\n")[:-1]
    # An event of today in each partition: all that was before can be let go.
    view = json.loads(next(line for line in lines if b'"page_view"' in line))
    now = (dt.datetime.now(UTC) - dt.timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    for partition in (0, 1):
        last = view | {"idempotency_key": str(uuid.uuid4()), "user_id": f"last{partition}", "event_timestamp": now}
        kafka_broker.produce(topic, [*lines[partition::2], json.dumps(last).encode()], partition=partition)
    file = project.folder / "pipeline.yaml"
    source = f"source:\n  kafka: {{topics: [{topic}], group: {topic}}}\n"
    file.write_text(re.sub(r"(?ms)^source:.*?(?=^[a-z])", source, file.read_text()))
    connection("the_kafka", conn_type="kafka", extra={"bootstrap.servers": kafka_broker.bootstrap})
    server = {"host": "127.0.0.1", "port": database.server.port, "schema": database.name}
    connection("the_tables", conn_type="postgres", login="postgres", password="hidden", **server)
    monkeypatch.setenv("AIRFLOW__PENSTOCK__KAFKA_CONN_ID", "the_kafka")
    monkeypatch.setenv("AIRFLOW__PENSTOCK__POSTGRES_CONN_ID", "the_tables")
    dag = (DAGS / "ecommerce_daily.py").read_text()
    truth = project.truth["expected"]
    everything: list[Any] = []
    for skip in (None, r"dbt_test\..*"):
        ran = airflow.run(dag, name="ecommerce_daily", retries=0, skip=skip)
        assert set(ran.states.values()) == {"success"}, ran.log[-6000:]
        assert "have come in all 2 partitions" in ran.log
        assert (ran.xcom("drain")["silver"], ran.xcom("drain")["pending"]) == (truth["silver"], 2)
        assert ran.xcom("load")["warehouse"] == f"127.0.0.1:{database.server.port}/{database.name}"
        assert {check["name"]: check["passed"] for check in ran.xcom("audit")["checks"]}["Silver = the warehouse"]
        found = database.rows("SELECT count(*), sum(purchase_amount) FROM fact_events")
        assert found == [(truth["silver"], Decimal(project.truth["purchase_amount"]))]
        assert database.rows("SELECT sum(total_events) FROM daily_active_users") == [(truth["silver"],)]
        assert "hidden" not in ran.log
        everything.append([database.rows(f"SELECT * FROM {table} t ORDER BY t::text") for table in TABLES])
    assert everything[0] == everything[1]
    assert not (project.folder / "warehouse.duckdb").exists()


PLACES = {"fact_key", "user_key", "lake_file", "load_number"}
FACT_COLUMNS = "SELECT column_name FROM duckdb_columns() WHERE table_name = 'fact_events' ORDER BY ALL"


def test_a_backfill_of_days_in_any_order(airflow: Airflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven days by a contract that takes more: in order and not, once and twice, the same rows come of it."""
    dag = (DAGS / "penstock_backfill.py").read_text()
    found = []
    for name, shuffled in (("ordered", False), ("shuffled", True)):
        project = Project(tmp_path / name, 2000, bad_rate=0.1)
        monkeypatch.setenv("AIRFLOW__PENSTOCK__PROJECT", str(project.folder))
        flow = penstock.Pipeline.load(project.folder)
        flow.run(drain=True, progress=False)
        load(flow.spec(), tables=flow.file.tables)
        before = len(project.rows("SELECT 1 FROM fact_events"))
        for schema in (project.folder / "schemas").iterdir():
            lenient = re.sub(r'"minimum": \d+, ', "", schema.read_text())
            schema.write_text(re.sub(r'("required": \[)[^]]*', r'\1"event_type", "user_id"', lenient))
        days = [(project.yesterday - dt.timedelta(days=n)).isoformat() for n in range(7, 0, -1)]
        conf: dict[str, Any] = {"days": random.Random(7).sample(days, 7)}
        if not shuffled:
            conf = {"start": days[0], "end": project.yesterday.isoformat()}
        for _ in range(2 if shuffled else 1):
            ran = airflow.run(dag, conf, name="penstock_backfill", retries=0)
            assert set(ran.states.values()) == {"success"}, ran.log[-6000:]
            assert len([task for task in ran.states if task.startswith("backfill[")]) == 7
            assert len(project.rows("SELECT 1 FROM fact_events")) > before
            found.append(everything(project))
    assert found[0] == found[1] == found[2]


def test_a_backfill_beside_a_run(airflow: Airflow, project: Project) -> None:
    """While the pipeline runs, its days are made anew: nothing is lost, nothing is there twice."""
    flow = penstock.Pipeline.load(project.folder, {"epoch.max_events": 500})
    flow.run(max_epochs=3, progress=False)
    beside = threading.Thread(target=lambda: flow.run(drain=True, progress=False))
    day = (project.yesterday - dt.timedelta(days=7)).isoformat()
    beside.start()
    ran = airflow.run((DAGS / "penstock_backfill.py").read_text(), {"days": [day]}, name="penstock_backfill")
    beside.join()
    assert set(ran.states.values()) == {"success"}, ran.log[-6000:]
    load(flow.spec(), tables=flow.file.tables)
    audit = flow.audit()
    assert audit.balanced and audit.ledger.silver == project.truth["expected"]["silver"]
    assert len(project.rows("SELECT 1 FROM fact_events")) == audit.ledger.silver


def test_a_backfill_without_a_day_says_so(airflow: Airflow, project: Project) -> None:
    ran = airflow.run((DAGS / "penstock_backfill.py").read_text(), name="penstock_backfill", retries=0)
    assert ran.states["days"] == "failed" and "no day is named" in ran.log


def test_maintenance(airflow: Airflow, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_PENSTOCK_PIPELINE", "ecommerce")
    flow = penstock.Pipeline.load(project.folder, {"epoch.max_events": 500})
    flow.run(drain=True, progress=False)
    dag = (DAGS / "penstock_maintenance.py").read_text()
    ran = airflow.run(dag, {"min_age": "0s"}, name="penstock_maintenance", retries=0)
    assert ran.states == {"compact": "success", "retention": "skipped", "audit": "success"}, ran.log[-6000:]
    compacted = ran.xcom("compact")
    assert 0 < compacted["files_after"] < compacted["files_before"]
    assert ran.xcom("audit")["silver"] == project.truth["expected"]["silver"]
    ran = airflow.run(dag, {"keep": {"bronze": "3650d"}}, name="penstock_maintenance", retries=0)
    assert set(ran.states.values()) == {"success"}, ran.log[-6000:]
    assert ran.xcom("compact")["files_before"] == ran.xcom("retention").get("expired", {}).get("files", 0) == 0
