"""From Kafka into PostgreSQL, real ones, exactly once: whatever is killed, the hours are those of the truth."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

import crash
from penstock import read_lake
from services import until
from services.postgres import Database, PostgresServer, postgres_server
from test_cli import ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from services.kafka import KafkaBroker

EVENTS = 6_000
POSITIONS = "SELECT lake_partition, lake_offset FROM transactions"
OURS = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'penstock' AND datname = current_database()"
HOURS = """
    SELECT to_char(event_hour, 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), total_transactions, total_amount::text, late_transactions
    FROM hourly_metrics
"""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server that is killed."""
    with postgres_server() as made:
        yield made


@dataclass
class Payments:
    """The ready-made pipeline over a topic of its own and a database of its own."""

    folder: Path
    broker: KafkaBroker
    database: Database

    @property
    def topic(self) -> str:
        """Named after the folder, as its consumer group."""
        return self.folder.name

    def start(self, *arguments: object, failpoint: str | None = None) -> subprocess.Popen[str]:
        """Starts a command."""
        env = {name: value for name, value in os.environ.items() if name != "PENSTOCK_FAILPOINT"} | ENVIRONMENT
        env |= {"KAFKA_BROKERS": self.broker.bootstrap, "DATABASE": self.database.url}
        if failpoint:
            env["PENSTOCK_FAILPOINT"] = failpoint
        command, *options = map(str, arguments)
        settings = {
            "warehouse.postgres": "${DATABASE}",
            "source.kafka.topics": [self.topic],
            "source.kafka.group": self.topic,
            "durability": "process",
            "epoch.max_events": 500,
        }
        given = [part for name, value in settings.items() for part in ("--set", f"{name}={json.dumps(value)}")]
        return subprocess.Popen(
            [sys.executable, "-m", "penstock", command, "payments", *options, *given],
            cwd=self.folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: object, failpoint: str | None = None, code: int = 0) -> str:
        """Runs a command to its end, which is this exit code; gives what it said."""
        process = self.start(*arguments, failpoint=failpoint)
        out, err = process.communicate(timeout=120)
        assert process.returncode == code, out + err
        return out if code == 0 else err

    def caught_up(self, *options: object, failpoint: str | None = None, code: int = 0) -> str:
        """`penstock run --until-caught-up`."""
        return self.run("run", "--until-caught-up", "-q", *options, failpoint=failpoint, code=code)

    def killed(self, after: float) -> int:
        """A run that is killed so many seconds after its first commit; its exit code."""
        running, before = self.start("run", "--until-caught-up", "-q"), len(self.commits())
        try:
            until("it commits or ends", lambda: len(self.commits()) > before or running.poll() is not None)
            crash.some_moment(running, after)
        finally:
            running.kill()
            running.communicate()
        return int(running.returncode)

    def commits(self) -> list[dict[str, Any]]:
        """The log."""
        epochs = self.folder / "lake/_penstock/payments/epochs"
        return [json.loads(path.read_text()) for path in sorted(epochs.glob("*.commit"))]

    def hours(self) -> dict[str, dict[str, Any]]:
        """The hourly metrics, refreshed."""
        self.run("refresh")
        return {
            hour: {"total_transactions": total, "total_amount": amount, "late_transactions": late}
            for hour, total, amount, late in self.database.rows(HOURS)
        }

    def assert_consistent(self) -> None:
        """The database stands where the log stands, or one epoch ahead; with as many rows as its epochs have."""
        found = self.database.rows("SELECT log_number, kind, rows_read FROM penstock_loads ORDER BY 1")
        assert [number for number, _, _ in found] == list(range(len(found)))
        assert len(found) - len(self.commits()) in (0, 1)
        rows = Counter(self.database.rows(POSITIONS))
        assert set(rows.values()) <= {1}
        assert rows.total() == sum(rows for _, _, rows in found)
        ends = dict(self.database.rows("SELECT partition_id, next_offset FROM penstock_offsets"))
        assert all(offset < ends[partition] for partition, offset in rows)

    def assert_done(self, truth: dict[str, Any]) -> None:
        """Rows, offsets and hours are those of Silver, of the topic, and of the truth."""
        self.assert_consistent()
        silver = pa.table(read_lake(self.folder / "lake", "silver/events")).select(["_partition", "_offset"])
        assert Counter(self.database.rows(POSITIONS)) == Counter(
            map(tuple, (row.values() for row in silver.to_pylist()))
        )
        ends = self.broker.end_offsets(self.topic)
        assert dict(self.database.rows("SELECT partition_id, next_offset FROM penstock_offsets")) == ends
        assert self.hours() == truth["hours"]
        audit = json.loads(self.run("audit", "--broker", "--json"))
        assert audit["balanced"] and audit["warehouse"]["facts"] == truth["expected"]["silver"]


@pytest.fixture
def payments(kafka_broker: KafkaBroker, server: PostgresServer, tmp_path: Path) -> Payments:
    """Such a pipeline, that has not run yet."""
    return Payments(tmp_path, kafka_broker, Database(server, server.database()))


@pytest.fixture
def truth(payments: Payments) -> dict[str, Any]:
    """What was produced into its topic."""
    options = ("--total-events", EVENTS, "--seed", 7, "--bad-data-rate", 0.02, "--late-rate", 0.02)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "penstock",
            "produce",
            "payments",
            *map(str, options),
            "--topic",
            payments.topic,
            "--json",
        ],
        cwd=payments.folder,
        env=os.environ | ENVIRONMENT | {"KAFKA_BROKERS": payments.broker.bootstrap},
        check=True,
        capture_output=True,
        text=True,
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
def test_killed_around_the_transaction_and_with_the_server(payments: Payments, truth: dict[str, Any]) -> None:
    """Before it, after it, in the middle of it; and the server while the run is at work."""
    payments.caught_up(failpoint="sink.before@2=kill", code=-signal.SIGKILL)
    payments.assert_consistent()
    assert len(payments.commits()) == 1
    payments.caught_up(failpoint="load.recorded@2=kill", code=-signal.SIGKILL)
    payments.assert_consistent()
    assert len(payments.commits()) == 2
    payments.caught_up(failpoint="sink.after@2=kill", code=-signal.SIGKILL)
    payments.assert_consistent()
    # The database has an epoch that the log has not: what looks at it meanwhile is not misled.
    assert payments.database.rows("SELECT count(*) FROM penstock_loads") == [(len(payments.commits()) + 1,)]
    loaded = json.loads(payments.run("load", "--json"))
    assert (loaded["rows_read"], loaded["log_number"]) == (0, len(payments.commits()))
    assert json.loads(payments.run("audit", "--json"))["warehouse"]["balanced"]
    # The server dies, and comes back while the run waits for it.
    server, running = (
        payments.database.server,
        payments.start("run", "--until-caught-up", failpoint="sink.before@3=stop"),
    )
    try:
        crash.halted(running)
        server.kill()
        running.send_signal(signal.SIGCONT)
        server.start()
        _, said = running.communicate(timeout=120)
        assert running.returncode == 0, said
        assert "trying again" in said
    finally:
        running.kill()
    payments.assert_done(truth)


@pytest.mark.slow
def test_killed_at_any_moment(payments: Payments, truth: dict[str, Any]) -> None:
    dice = random.Random(4)
    killed = 0
    for _ in range(4):
        killed += payments.killed(dice.uniform(0.0, 0.3)) == -signal.SIGKILL
        payments.assert_consistent()
    assert killed > 1
    payments.caught_up()
    payments.assert_done(truth)


def test_an_epoch_given_up_against_one_that_slept(payments: Payments, truth: dict[str, Any]) -> None:
    """It looked at the term, slept, and wakes when others have given its epoch up and gone on."""
    slept = payments.start("run", "--until-caught-up", "-q", failpoint="sink.before@2=stop")
    try:
        crash.halted(slept)
        payments.caught_up("--void", 1)
        assert payments.database.rows("SELECT kind FROM penstock_loads WHERE log_number = 1") == [("void",)]
        slept.send_signal(signal.SIGCONT)
        _, said = slept.communicate(timeout=120)
    finally:
        slept.kill()
    assert slept.returncode == 4, said
    assert "was replaced by a newer one" in said
    payments.assert_done(truth)


def test_shards_write_beside_each_other(payments: Payments, truth: dict[str, Any]) -> None:
    """Each has a log, terms and offsets of its own; the rows are in one table."""
    keyed = ("--set", "source.keyed_by=entity")
    for shard in ("1/2", "2/2"):
        payments.caught_up("--shard", shard, *keyed)
    found = payments.database.rows("SELECT pipeline, kind, count(*), sum(rows_read) FROM penstock_loads GROUP BY 1, 2")
    assert {(log, kind) for log, kind, _, _ in found} == {("payments/0001", "epoch"), ("payments/0002", "epoch")}
    assert sum(rows for *_, rows in found) == truth["expected"]["silver"]
    ends = payments.broker.end_offsets(payments.topic)
    assert dict(payments.database.rows("SELECT partition_id, next_offset FROM penstock_offsets")) == ends
    assert json.loads(payments.run("load", "--json", *keyed))["rows_read"] == 0
    assert json.loads(payments.run("audit", "--json", *keyed))["warehouse"]["facts"] == truth["expected"]["silver"]
    assert payments.hours() == truth["hours"]


def test_who_asks_twice_waits_for_no_lock(payments: Payments, truth: dict[str, Any]) -> None:
    """The run waits for the database, and is asked to stop: it says so, and leaves nothing behind."""
    payments.caught_up("--max-epochs", 1)
    database = payments.database
    with database.server.connect(database.name) as other:
        other.execute("BEGIN")
        other.execute("LOCK TABLE penstock_terms IN ACCESS EXCLUSIVE MODE")
        waits = payments.start("run", "--until-caught-up", "-q")
        try:
            until("it waits", lambda: database.rows("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))
            waits.send_signal(signal.SIGINT)
            # Two of them at once are one.
            crash.some_moment(waits, 0.5)
            waits.send_signal(signal.SIGINT)
            _, said = waits.communicate(timeout=60)
        finally:
            waits.kill()
        assert waits.returncode == 6, said
        assert said.strip() == "Error: interrupted; the epoch in hand was given up, and the next run reads it again"
    until("the server is left", lambda: not database.rows(OURS))
    payments.caught_up()
    payments.assert_done(truth)
