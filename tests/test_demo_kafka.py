"""The demo over Kafka: more than its own broker can hold at once, and a real one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from penstock import demo
from penstock._demo_stream import PARTITIONS, DemoStream
from penstock.errors import SourceError
from test_cli import cli, found

if TYPE_CHECKING:
    from pathlib import Path

    from services.kafka import KafkaBroker


def test_over_a_real_broker(kafka_broker: KafkaBroker, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    told = found("demo", "--events", 30_000, "--dir", folder, "--brokers", kafka_broker.bootstrap)
    assert told["ok"], told["disagreements"]
    truth = json.loads((folder / "truth.json").read_text())
    assert sum(kafka_broker.end_offsets(truth["topic"]).values()) == truth["delivered"] == 30_000
    assert len(truth["partitions"]) == PARTITIONS and told["ledger"]["silver"] == truth["expected"]["silver"]
    # The lag was seen, and is gone; and whoever looks later finds the pipeline caught up.
    run = next(step["said"] for step in told["steps"] if step["name"] == "run")
    assert " 0 at the end" in run
    again = found("run", folder, "--until-caught-up")
    assert again["run"]["consumed"] == 0 and again["consumed"] == 30_000


def test_the_broker_in_the_process_never_holds_more_than_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A producer without bounds would push out what is not yet read: the demo would find it missing."""
    monkeypatch.setattr("penstock.demo.ecommerce._importable", lambda _: False)
    shown: list[demo.Step] = []
    run = demo.of("ecommerce", tmp_path / "demo", events=300_000, seed=1, progress=False)
    assert run.stream is not None
    # Without compression this is three times what the broker keeps.
    run.stream.settings = {"compression.type": "none"}
    told = run.run(shown.append)
    assert told["ok"], told["disagreements"]
    assert told["truth"]["bytes"] > 2 * PARTITIONS * 5 * 2**20
    assert told["ledger"]["consumed"] == 300_000 and told["ledger"]["pending"] == 0
    assert 0 < run.stream.most_lag <= 2 * 300_000 / 3


def test_a_broker_that_is_not_there_ends_it_with_the_reason(tmp_path: Path) -> None:
    with (
        DemoStream("127.0.0.1:1", settings={"socket.connection.setup.timeout.ms": "1000"}) as stream,
        pytest.raises(SourceError, match="no broker answered"),
    ):
        stream.fill("ecommerce", total=1_000)
    done = cli("demo", "--dir", tmp_path / "demo", "--brokers", "127.0.0.1:1")
    assert done.returncode == 3 and "no broker answered" in done.stderr and "Traceback" not in done.stderr


def test_a_password_is_in_no_file_of_the_demo(tmp_path: Path) -> None:
    settings = {"sasl.password": "hunter2", "sasl.username": "ada", "socket.connection.setup.timeout.ms": "1000"}
    run = demo.of(
        "ecommerce", tmp_path / "demo", events=1_000, seed=1, progress=False, brokers="127.0.0.1:1", kafka=settings
    )
    with pytest.raises(SourceError, match="no broker answered"):
        run.run()
    pipeline = (tmp_path / "demo/pipeline.yaml").read_text()
    assert "sasl.password: ${PENSTOCK_DEMO_SASL_PASSWORD}" in pipeline and "ada" in pipeline
    assert not [p for p in (tmp_path / "demo").rglob("*") if p.is_file() and b"hunter2" in p.read_bytes()]
    assert run.flow.file.source_secrets == {"sasl.password": "hunter2"}
