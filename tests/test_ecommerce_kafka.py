"""The ready-made pipeline `ecommerce` over a real Kafka, by the command line: produce, run, load, quality, audit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import duckdb

from test_cli import cli, found, ok

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from services.kafka import KafkaBroker

EVENTS = ("--total-events", 8_000, "--seed", 3, "--bad-data-rate", 0.005, "--start", "2024-12-10", "--span", "8d")
HEADINGS = ("consumed", "silver", "rejected", "duplicate", "late", "rejected_by_code")


def test_from_the_topic_to_the_checks(
    kafka_broker: KafkaBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_BROKERS", kafka_broker.bootstrap)
    truth = found("produce", "ecommerce", *EVENTS, cwd=tmp_path)
    assert (truth["topic"], truth["delivered"], len(truth["partitions"])) == ("events_raw", 8_000, 4)
    ran = found("run", "ecommerce", "--drain", cwd=tmp_path)
    assert {name: ran[name] for name in HEADINGS} == {name: truth["expected"][name] for name in HEADINGS}
    assert (ran["balanced"], ran["pending"], ran["sessions"]) == (True, 0, truth["sessions"])
    ends = kafka_broker.end_offsets("events_raw")
    assert kafka_broker.group_offsets("penstock-ecommerce", "events_raw") == ends

    # What follows reads the lake alone: it does not ask where Kafka is.
    monkeypatch.delenv("KAFKA_BROKERS")
    assert found("load", "ecommerce", cwd=tmp_path)["inserted"] == ran["silver"]
    quality = found("quality", "ecommerce", "--date", "2024-12-17", cwd=tmp_path)
    assert quality["passed"], quality
    audit = found("audit", "ecommerce", cwd=tmp_path)
    assert audit["balanced"] and audit["warehouse"]["facts"] == ran["silver"]
    with duckdb.connect(tmp_path / "warehouse.duckdb", read_only=True) as warehouse:
        (paid,) = warehouse.execute("SELECT sum(purchase_amount)::VARCHAR FROM fact_events").fetchall()
    assert paid == (truth["purchase_amount"],)
    assert found("inspect", "ecommerce", cwd=tmp_path)["consumed"] == 8_000

    # The same by an option, and by a setting; there is nothing new.
    for given in (("--brokers", kafka_broker.bootstrap), ("--set", f"source.kafka.brokers={kafka_broker.bootstrap}")):
        again = found("run", "ecommerce", "--until-caught-up", *given, cwd=tmp_path)
        assert (again["run"]["consumed"], again["consumed"]) == (0, 8_000)
    doctor = json.loads(cli("doctor", "ecommerce", "--json", cwd=tmp_path, KAFKA_BROKERS=kafka_broker.bootstrap).stdout)
    source = next(check for check in doctor["checks"] if check["name"] == "source")
    assert source["ok"] and f"{kafka_broker.bootstrap} answers" in source["said"]


def test_without_kafka_it_says_what_to_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAFKA_BROKERS", raising=False)
    done = cli("run", "ecommerce", "--until-caught-up", cwd=tmp_path)
    said = " ".join(done.stderr.split())
    assert done.returncode == 2 and "Traceback" not in said
    for wanted in ("source.kafka.brokers", "KAFKA_BROKERS=", "--brokers", "--set 'source.files.paths=in/*.jsonl'"):
        assert wanted in said
    assert not (tmp_path / "lake").exists()
    done = cli("doctor", "ecommerce", cwd=tmp_path)
    assert "nothing says where Kafka is" in " ".join(done.stdout.split()) and "Traceback" not in done.stderr

    # Files take the place of the topic.
    ok("produce", "ecommerce", "--total-events", 1_000, "--to", tmp_path / "in.jsonl")
    ran = found("run", "ecommerce", "--until-caught-up", "--set", "source.files.paths=in.jsonl", cwd=tmp_path)
    assert (ran["consumed"], ran["pending"], ran["balanced"]) == (1_000, 0, True)
