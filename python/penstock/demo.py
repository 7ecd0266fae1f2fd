"""The demo: a ready-made pipeline from Kafka to checked marts, compared with the truth about the events."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from penstock._demo_stream import DemoStream
from penstock.errors import SettingsError
from penstock.generate import generate
from penstock.kafka import is_secret
from penstock.pipeline import Pipeline
from penstock.resources import copy_out, ready_made_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

# A folder with this file was made by a demo and may be made anew; no other folder is ever touched.
MARK = ".penstock-demo"
DAYS = 8
START, LAST_DAY = "2024-12-10", "2024-12-17"
PIPELINES = ("ecommerce",)
# Below the 1 % at which the dead-letter check alerts, so that the demo's last day passes it.
BAD_RATE = 0.005

PLANS = """
    SELECT coalesce(u.plan_type, 'unknown') AS plan, count(DISTINCT f.user_id) AS users, count(*) AS purchases,
           sum(f.purchase_amount) AS amount
    FROM fact_events f JOIN dim_user u ON f.user_key = u.user_key
    WHERE f.event_type = 'purchase'
      AND f.event_timestamp BETWEEN u.effective_start_date AND coalesce(u.effective_end_date, '9999-12-31')
    GROUP BY ALL ORDER BY amount DESC
"""


@dataclass
class Step:
    """One step, and how it went: `ok`, `skipped` or `failed`."""

    name: str
    status: str = "ok"
    seconds: float = 0.0
    said: str = ""
    detail: dict[str, Any] = field(default_factory=dict)
    tables: list[tuple[str, Any]] = field(default_factory=list)


class Demo:
    """A demo in a folder of its own.

    Args:
        pipeline: The ready-made pipeline.
        folder: Made anew.
        events: How many events.
        seed: Another seed, other events.
        progress: Show it; None: in a terminal.
        brokers: A real Kafka; None: a broker in this process.
        kafka: librdkafka's own settings for it.
        from_files: No Kafka at all: events go through a file.
    """

    def __init__(
        self,
        pipeline: str,
        folder: Path,
        *,
        events: int,
        seed: int,
        progress: bool | None,
        brokers: str | None = None,
        kafka: Mapping[str, str] | None = None,
        from_files: bool = False,
    ) -> None:
        ready_made_folder(pipeline)
        if pipeline not in PIPELINES:
            raise SettingsError(f"pipeline {pipeline!r}: it has no demo; there are: {', '.join(PIPELINES)}")
        self.pipeline = pipeline
        self.folder = folder
        self.events = events
        self.seed = seed
        self.progress = progress
        self.disagreements: list[str] = []
        self.truth: dict[str, Any] = {}
        self.stream = None if from_files else DemoStream(brokers, settings=kafka)

    def run(self, show: Callable[[Step], object] = lambda _: None) -> dict[str, Any]:
        """Run all steps; `show` is called after each.

        Returns:
            `ok`, `seconds`, `steps`, `ledger`, `truth`, `disagreements`.
        """
        began = time.perf_counter()
        steps: list[Step] = []
        with self.stream or contextlib.nullcontext():
            self._prepare()
            self._take_steps(("produce", "run"), steps, show)
        # What follows reads the lake alone.
        self._take_steps(("load", "dbt", "quality", "audit"), steps, show)
        return {
            "ok": not self.disagreements,
            "seconds": round(time.perf_counter() - began, 3),
            "steps": [
                {"name": s.name, "status": s.status, "seconds": round(s.seconds, 3), "said": s.said, **s.detail}
                for s in steps
            ],
            "ledger": self.ledger.to_dict(),
            "truth": self.truth,
            "disagreements": self.disagreements,
        }

    def _take_steps(self, names: tuple[str, ...], steps: list[Step], show: Callable[[Step], object]) -> None:
        for name in names:
            step, start = Step(name), time.perf_counter()
            getattr(self, f"_{name}")(step)
            step.seconds = time.perf_counter() - start
            steps.append(step)
            show(step)

    def _prepare(self) -> None:
        folder = self.folder
        if folder.exists() and any(folder.iterdir()):
            if not (folder / MARK).is_file():
                raise SettingsError(f"{folder}: is not empty, and no demo made it; name another folder with --dir")
            shutil.rmtree(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / MARK).write_text("Made by `penstock demo`, which may make this folder anew.\n", encoding="utf-8")
        except OSError as error:
            raise SettingsError(
                f"{folder}: cannot be written ({error.strerror}); name another folder with --dir"
            ) from None
        copy_out(self.pipeline, folder, force=True)
        (folder / "in").mkdir(exist_ok=True)
        file = folder / "pipeline.yaml"
        source = self.stream.source() if self.stream else {"files": {"paths": ["in/*.jsonl"], "bounded": True}}
        for name, value in source.get("kafka", {}).items():
            if is_secret(name):
                variable = f"PENSTOCK_DEMO_{re.sub('[^A-Z]', '_', name.upper())}"
                os.environ[variable] = str(value)
                source["kafka"][name] = f"${{{variable}}}"
        block = yaml.safe_dump({"source": source}, sort_keys=False)
        if self.stream and self.stream.is_ours:
            block = _GONE + block
        # Everything up to the next key at the left edge.
        text = re.sub(r"(?ms)^source:.*?(?=^[a-z])", lambda _: block, file.read_text(encoding="utf-8"))
        file.write_text(text, encoding="utf-8")
        self.flow = Pipeline.load(folder / "pipeline.yaml")

    def _compare(self, what: str, found: object, expected: object, step: Step) -> bool:
        if found == expected:
            return True
        step.status = "failed"
        self.disagreements.append(f"{what}: {found} found, {expected} expected")
        return False

    def _produce(self, step: Step) -> None:
        options: dict[str, Any] = {
            "total": self.events, "seed": self.seed, "bad_rate": BAD_RATE, "start": START, "span": f"{DAYS}d"
        }  # fmt: skip
        if self.stream:
            self.stream.fill(self.pipeline, **options)
            step.said = f"{self.events:,} events on their way into {self.stream.place}"
            return
        path = self.folder / "in" / "events.jsonl"
        self._know(generate(self.pipeline, path, progress=self.progress, **options))
        step.said = f"{self._made} in {path}"

    def _know(self, truth: dict[str, Any]) -> None:
        self.truth = truth
        (self.folder / "truth.json").write_text(json.dumps(truth, indent=2) + "\n", encoding="utf-8")

    @property
    def _made(self) -> str:
        expected = self.truth["expected"]
        return (
            f"{self.truth['total']:,} events of {self.truth['users']:,} users, {expected['rejected']:,} broken on "
            f"purpose, {expected['duplicate']:,} sent twice"
        )

    @contextlib.contextmanager
    def _watched(self) -> Iterator[Callable[[dict[str, Any]], object]]:
        if self.progress is False or not sys.stderr.isatty():
            yield lambda _: None
            return
        from rich.console import Console

        from penstock.view import RunView

        with RunView(self.pipeline, Console(stderr=True)) as view:
            yield view.take

    def _run(self, step: Step) -> None:
        began = time.perf_counter()
        if self.stream:
            with self._watched() as watch:
                ledger = self.stream.drain(self.flow, watch)
            self._know(self.stream.produced)
            self._compare("lag at the end", self.stream.lag, 0, step)
            lag = f"{self._made}; lag {self.stream.most_lag:,} at most, {self.stream.lag} at the end; "
        else:
            ledger, lag = self.flow.run(until_caught_up=True, progress=self.progress), ""
        self.ledger = ledger
        expected = self.truth["expected"]
        for name in ("consumed", "silver", "rejected", "duplicate", "late", "rejected_by_code"):
            self._compare(f"ledger, {name}", getattr(ledger, name), expected[name], step)
        self._compare("ledger, pending", ledger.pending, 0, step)
        self._compare("sessions", ledger.sessions, self.truth["sessions"], step)
        self._compare("ledger balances", ledger.balanced, True, step)
        rate = ledger.consumed / (time.perf_counter() - began)
        step.said = (
            f"{lag}{ledger.silver:,} events in {ledger.sessions:,} sessions to Silver, "
            f"{ledger.dead_letters:,} dead letters, {rate:,.0f} events/s"
        )
        step.tables.append(("ledger", (ledger, {"pending": 0, **expected})))

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

    def _quality(self, step: Step) -> None:
        from penstock.quality import run_checks

        report = run_checks(self.flow.spec(), LAST_DAY)
        step.detail = report.as_dict()
        step.said = f"{len(report.checks) - len(report.failed)} of {len(report.checks)} checks passed for {LAST_DAY}"
        step.tables.append(("checks", [(c.name, c.passed, c.message) for c in report.checks]))
        for check in report.failed:
            step.status = "failed"
            self.disagreements.append(f"quality, {check.name}: {check.message}")

    def _audit(self, step: Step) -> None:
        found = self.flow.audit()
        failed = [check for check in found.checks if not check.passed]
        step.said = (
            f"{len(found.checks) - len(failed)} of {len(found.checks)} checks passed, counted again from the files"
        )
        step.tables.append(("checks", [(c.name, c.passed, c.detail) for c in found.checks]))
        if not found.balanced:
            step.status = "failed"
            self.disagreements += [f"audit, {check.name}: {check.detail}" for check in failed] or [
                "audit: does not balance"
            ]


_GONE = """\
# This broker was part of the demo and ended with it. To run the pipeline again put the address of your Kafka in its
# place, such as localhost:9092, and your topic; or read files: `files: {paths: ["in/*.jsonl"]}` in place of `kafka`.
"""


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
