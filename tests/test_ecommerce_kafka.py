"""The ready-made pipeline `ecommerce` over a real Kafka, by the command line: produce, run, load, quality, audit."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from penstock._core import EmbeddedKafka
from test_cli import ENVIRONMENT, cli, found, ok

if TYPE_CHECKING:
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


def test_the_quickstart_word_for_word(tmp_path: Path) -> None:
    """Every line of it in one shell after the other; only the number of events and where Kafka is are our own."""
    page = (Path(__file__).parents[1] / "docs/guide/quickstart.md").read_text()
    lines = re.findall(r"^```sh\n(.*?)^```", page.partition("## The same, step by step")[2], re.MULTILINE | re.DOTALL)
    assert len(lines) == 2
    kafka = EmbeddedKafka()
    try:
        kafka.create_topic("events_raw", partitions=4)
        script = "\n".join(lines).replace("100000", "3000").replace("localhost:9092", kafka.bootstrap)
        programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {"PATH": programs, "HOME": str(tmp_path)} | ENVIRONMENT
        command = ["bash", "-euxc", script + "\npenstock inspect pipeline.yaml --json"]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=150, check=False
        )
    finally:
        kafka.stop()
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["consumed"], told["lag"]) == (3_000, 0)


def test_a_lake_goes_on_with_the_kind_of_source_that_filled_it(tmp_path: Path) -> None:
    files = ("--set", "source.files.paths=in/*.jsonl")
    ok("produce", "payments", "--total-events", 1_000, "--to", tmp_path / "in/t.jsonl")
    kafka = EmbeddedKafka()
    try:
        kafka.create_topic("transactions", partitions=2)
        brokers = {"KAFKA_BROKERS": kafka.bootstrap}
        ok(
            "produce",
            "payments",
            "--total-events",
            1_000,
            "--truth",
            tmp_path / "truth.json",
            "--brokers",
            kafka.bootstrap,
        )
        (tmp_path / "other").mkdir()
        for folder, first, then, was in (
            (tmp_path, files, (), "files"),
            (tmp_path / "other", (), ("--set", "source.files.paths=../in/*.jsonl"), "Kafka"),
        ):
            assert cli("run", "payments", "--until-caught-up", *first, cwd=folder, **brokers).returncode == 0
            done = cli("run", "payments", "--until-caught-up", *then, cwd=folder, **brokers)
            said = " ".join(done.stderr.split())
            assert done.returncode == 2 and f"this lake was filled from {was}" in said, said
            assert "Name another lake" in said and "`penstock reset`" in said
            seen = cli("inspect", "payments", *then, "--json", cwd=folder, **brokers)
            assert seen.returncode == 0, seen.stderr
            assert json.loads(seen.stdout)["consumed"] == 1_000
        seen = cli("inspect", "payments", "--json", cwd=tmp_path, **brokers)
        assert "filled from files" in json.loads(seen.stdout)["broker_said"]
    finally:
        kafka.stop()


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
