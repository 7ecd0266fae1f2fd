"""The demo of `ecommerce`: events to a star schema and checked marts."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

from penstock.demo import Demo, Step

PLANS = """
    SELECT coalesce(u.plan_type, 'unknown') AS plan, count(DISTINCT f.user_id) AS users, count(*) AS purchases,
           sum(f.purchase_amount) AS amount
    FROM fact_events f JOIN dim_user u ON f.user_key = u.user_key
    WHERE f.event_type = 'purchase'
      AND f.event_timestamp BETWEEN u.effective_start_date AND coalesce(u.effective_end_date, '9999-12-31')
    GROUP BY ALL ORDER BY amount DESC
"""


class Ecommerce(Demo):
    """Events of a shop: sessions, a star schema with history, dbt marts."""

    pipeline = "ecommerce"
    start = "2024-12-10"
    days = 8
    topic = "events_raw"
    after = ("load", "dbt", "quality", "audit")

    def _landed(self, step: Step) -> str:
        self._compare("sessions", self.ledger.sessions, self.truth["sessions"], step)
        return f"{self.ledger.silver:,} events in {self.ledger.sessions:,} sessions to Silver"

    def _load(self, step: Step) -> None:
        from penstock.warehouse import connect, load, warehouse_of

        spec = self.flow.spec()
        step.detail = load(spec, tables=self.flow.file.tables).as_dict()
        warehouse = connect(warehouse_of(spec), read_only=True)
        try:
            ((facts, amount),) = warehouse.rows("SELECT count(*), sum(purchase_amount) FROM fact_events")
            ((users, versions),) = warehouse.rows(
                "SELECT count(DISTINCT user_id), count(*) FROM dim_user WHERE plan_type IS NOT NULL"
            )
            plans = warehouse.rows(PLANS)
        finally:
            warehouse.close()
        self._compare("facts in the warehouse", facts, self.truth["expected"]["silver"], step)
        self._compare("sum of purchases", Decimal(amount or 0), Decimal(self.truth["purchase_amount"]), step)
        self._compare("users with a plan", users, self.truth["users_signed_up"], step)
        self._compare("rows of their history", versions, self.truth["plan_rows"], step)
        step.said = f"{facts:,} facts, {users:,} users with {versions:,} rows of history, {amount:,} paid, to the cent"
        rows = [(str(p), f"{u:,}", f"{n:,}", f"{a:,}") for p, u, n, a in plans]
        columns = ("plan at the time", ">users", ">purchases", ">amount")
        step.tables.append(("table", ("Revenue by plan", columns, rows)))

    def _dbt(self, step: Step) -> None:
        project = self.folder / "dbt"
        missing = [name for name in ("dbt.cli.main", "dbt.adapters.duckdb") if not _importable(name)]
        if missing or not project.is_dir():
            step.status = "skipped"
            step.said = 'dbt is not installed; for the marts: pip install "penstock[dbt]"'
            return
        done = subprocess.run(  # noqa: S603 - our own interpreter on our own project
            [
                sys.executable, "-c", "from dbt.cli.main import cli; cli()", "--no-use-colors",
                "--log-path", str(project / "logs"), "build", "--target-path", str(project / "target"),
                "--project-dir", str(project), "--profiles-dir", str(project),
            ],
            check=False,
            capture_output=True,
            text=True,
            env=os.environ | {"PENSTOCK_WAREHOUSE": str(Path(self.flow.spec()["warehouse"]["duckdb"]).absolute())},
        )  # fmt: skip
        summary = [line for line in done.stdout.splitlines() if "PASS=" in line]
        step.said = summary[-1].split("  ")[-1].strip() if summary else ""
        if done.returncode != 0:
            step.status = "failed"
            tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
            self.disagreements.append(f"dbt build ended with exit code {done.returncode}:\n{tail}")


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
