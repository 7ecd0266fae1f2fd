"""A whole Airflow, a worker that is killed in the middle of its task, and the retry."""

from __future__ import annotations

import json
import signal
import socket
import urllib.error
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from jsonschema import Draft202012Validator

import penstock
from penstock.generate import generate
from services import until
from services.airflow import Standalone

if TYPE_CHECKING:
    from services.postgres import Database, PostgresServer

DAG = """\
import datetime as dt
import os
from airflow.sdk import DAG
from penstock.airflow import *


class Run(RunOperator):
    def execute(self, context):
        # The first try stands still in the middle of its third commit.
        if context["ti"].try_number == 1:
            os.environ["PENSTOCK_FAILPOINT"] = "commit.before@3=stop"
        return super().execute(context)


args = default_args(pipeline="ecommerce", retry_delay=dt.timedelta(0), overrides={overrides!r})
with DAG("killed", schedule=None, start_date=dt.datetime(2024, 1, 1), default_args=args) as dag:
    Run(task_id="run", drain=True) >> LoadOperator(task_id="load") >> AuditOperator(task_id="audit")
"""


SCHEMA = json.loads((Path(__file__).parent / "openlineage.schema.json").read_text())


def complete(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of these events, those at the end of a task."""
    return [event for event in events if event["eventType"] == "COMPLETE"]


@pytest.mark.slow
def test_a_worker_that_is_killed(postgres: PostgresServer, database: Database, tmp_path: Path) -> None:
    """Triggered by REST; SIGKILL for a worker in the middle of its task's third commit; the retry does the rest."""
    truth = generate("ecommerce", tmp_path / "events.jsonl", total=4000, seed=7, span="8d", progress=False)
    overrides = {
        "source.files.paths": [str(tmp_path / "events.jsonl")],
        "lake": str(tmp_path / "lake"),
        "epoch.max_events": 500,
    }
    server = {"host": "127.0.0.1", "port": postgres.port, "schema": database.name}
    env = {
        "AIRFLOW_CONN_THE_TABLES": json.dumps({"conn_type": "postgres", "login": "postgres", **server}),
        "AIRFLOW__PENSTOCK__POSTGRES_CONN_ID": "the_tables",
    }
    metadata = postgres.database()
    standalone = Standalone(f"127.0.0.1:{postgres.port}/{metadata}", env)
    (standalone.dags / "killed.py").write_text(DAG.format(overrides=overrides))
    with standalone as airflow:

        def tasks() -> dict[str, Any]:
            found = airflow.call("GET", f"/api/v2/dags/killed/dagRuns/{run}/taskInstances")["task_instances"]
            return {one["task_id"]: one for one in found}

        def known() -> bool:
            try:
                airflow.call("PATCH", "/api/v2/dags/killed", {"is_paused": False})
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    return False
                raise
            return True

        until("the DAG is known", known, seconds=120, every=0.3)
        run = airflow.call("POST", "/api/v2/dags/killed/dagRuns", {"logical_date": None})["dag_run_id"]

        def stands_still() -> psutil.Process | None:
            stopped = (p for p in airflow.processes() if p.status() == psutil.STATUS_STOPPED)
            return next(stopped, None)

        task = until("the task stands still", stands_still, seconds=120, every=0.2)
        worker = task.parent()
        assert worker is not None and "LocalExecutor" in " ".join(worker.cmdline())
        worker.send_signal(signal.SIGKILL)
        # A session whose leader is gone and that stands still is hung up by the kernel.
        until("its task is gone", lambda: not task.is_running(), seconds=60)

        def ended() -> str | None:
            state = airflow.call("GET", f"/api/v2/dags/killed/dagRuns/{run}")["state"]
            return state if state in ("success", "failed") else None

        assert until("the DAG run ends", ended, seconds=180, every=0.5) == "success", airflow.log.read_text()[-4000:]
        done = tasks()
        assert {name: one["state"] for name, one in done.items()} == dict.fromkeys(("run", "load", "audit"), "success")
        assert done["run"]["try_number"] > 1
        (told,) = until("OpenLineage is told", lambda: complete(airflow.told("killed.load")))
    Draft202012Validator(SCHEMA).validate(told)
    (facts,) = told["outputs"]
    assert facts["namespace"] == f"postgres://127.0.0.1:{postgres.port}"
    assert facts["name"] == f"{database.name}.public.fact_events"
    assert facts["outputFacets"]["outputStatistics"]["rowCount"] == truth["expected"]["silver"]
    assert {"schema", "columnLineage"} <= set(facts["facets"])
    audit = penstock.Pipeline.load("ecommerce", overrides).audit()
    assert audit.balanced and audit.ledger.silver == truth["expected"]["silver"]
    found = database.rows(
        "SELECT count(*), count(DISTINCT idempotency_key), sum(purchase_amount)::text FROM fact_events"
    )
    assert found == [(audit.ledger.silver, audit.ledger.silver, truth["purchase_amount"])]
    assert not standalone.processes()
    for port in standalone.ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    with postgres.connect() as admin:
        admin.execute(f'DROP DATABASE "{metadata}" WITH (FORCE)'.encode())
