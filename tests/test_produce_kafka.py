"""`penstock produce` into a real Kafka: what it says was delivered is what lies there."""

from __future__ import annotations

import collections
import datetime as dt
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import SettingsError, SourceError
from penstock.producer import ProducerError, ProducerStopped, produce
from services import until
from services.kafka import KafkaBroker
from test_cli import ENVIRONMENT, cli, found, ok

ECOMMERCE = Path(__file__).parents[1] / "python/penstock/pipelines/ecommerce"


def count(messages: list[Any]) -> dict[str, Any]:
    """What lies in a topic, counted without the engine."""
    types: collections.Counter[str] = collections.Counter()
    users: dict[bytes, int] = {}
    for message in messages:
        assert users.setdefault(message.key(), message.partition()) == message.partition()
        try:
            event = json.loads(message.value())
        except ValueError:
            types["no JSON"] += 1
            continue
        types[str(event.get("event_type")) if isinstance(event, dict) else "no object"] += 1
    return {
        "messages": len(messages),
        "bytes": sum(len(m.value()) + 1 for m in messages),
        "digest": hashlib.sha256(b"\n".join(sorted(m.value() for m in messages))).hexdigest(),
        "partitions": dict(collections.Counter(m.partition() for m in messages)),
    }


def test_the_topic_is_made_and_holds_what_the_truth_says(kafka_broker: KafkaBroker, tmp_path: Path) -> None:
    events = ("--total-events", 20_000, "--seed", 5, "--bad-data-rate", 0.03)
    broker = ("--brokers", kafka_broker.bootstrap, "--topic", "produced")
    told = found("produce", "ecommerce", *events, *broker, "--partitions", 3, cwd=tmp_path)
    assert (told["delivered"], told["created"], told["undelivered"]) == (20_000, True, {})
    truth = json.loads((tmp_path / "produced.truth.json").read_text())
    assert told == {"truth_file": "produced.truth.json", **truth}
    there = count(kafka_broker.consume("produced"))
    assert (there["messages"], there["bytes"]) == (20_000, truth["bytes"])
    assert there["partitions"] == dict(enumerate(truth["partitions"])) and len(truth["partitions"]) == 3
    # The same options give the same events in a file, and the same truth.
    file = tmp_path / "events.jsonl"
    written = found("produce", "ecommerce", *events, "--to", file)
    lines = file.read_bytes().rstrip(b"\n").split(b"\n")
    assert hashlib.sha256(b"\n".join(sorted(lines))).hexdigest() == there["digest"]
    for name in ("total", "bytes", "flaws", "expected", "sessions", "users", "plan_rows", "purchase_amount"):
        assert truth[name] == written[name], name
    # Once more into the topic that is there, seen by people.
    page = ok("produce", "ecommerce", "--total-events", 100, *broker, cwd=tmp_path)
    assert "100 events delivered to produced (topic was there)" in page
    assert sum(kafka_broker.end_offsets("produced").values()) == 20_100


def test_a_heartbeat_goes_into_each_partition_last(kafka_broker: KafkaBroker) -> None:
    told = produce(
        "ecommerce", brokers=kafka_broker.bootstrap, topic="beats", partitions=4, total=1_000, heartbeat="1h"
    )
    assert (told["delivered"], told["expected"]["pending"], told["expected"]["consumed"]) == (1_004, 4, 1_004)
    last = {m.partition(): m for m in kafka_broker.consume("beats")}
    times = {json.loads(m.value())["event_timestamp"] for m in last.values()}
    assert len(last) == 4 and len(times) == 1
    assert times.pop() > told["last_event_time"]


def test_stopped_it_flushes_and_says_what_was_delivered(kafka_broker: KafkaBroker, tmp_path: Path) -> None:
    for number, name in ((signal.SIGINT, "int"), (signal.SIGTERM, "term")):
        topic = f"stopped-{name}"
        kafka_broker.create_topic(topic, partitions=2)
        command = [sys.executable, "-m", "penstock", "produce", "ecommerce", "--brokers", kafka_broker.bootstrap]
        command += ["--topic", topic, "--total-events", "10000000", "--events-per-second", "3000", "--json"]
        running = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | ENVIRONMENT,
        )  # fmt: skip
        try:
            until("some events", lambda t=topic: sum(kafka_broker.end_offsets(t).values()) > 1_500)
            running.send_signal(number)
            said, errors = running.communicate(timeout=120)
        finally:
            running.kill()
        assert running.returncode == 130, errors
        told = json.loads(said)
        there = count(kafka_broker.consume(topic))
        assert 1_500 < told["delivered"] == there["messages"] == told["total"] == told["expected"]["consumed"]
        assert told["bytes"] == there["bytes"] and told["stopped"] and told["undelivered"] == {}
        assert told["exit_code"] == 130 and f"{told['delivered']:,} events were delivered" in errors
        truth = json.loads((tmp_path / f"{topic}.truth.json").read_text())
        assert truth["expected"] == told["expected"]
        expected = told["expected"]
        assert expected["consumed"] == sum(expected[n] for n in ("silver", "rejected", "duplicate", "late", "pending"))


def test_events_come_live(kafka_broker: KafkaBroker) -> None:
    def at(time: str) -> float:
        return dt.datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp() * 1_000

    before = dt.datetime.now(dt.timezone.utc).timestamp() * 1_000
    told = produce(
        "ecommerce", brokers=kafka_broker.bootstrap, topic="live", total=1_500, events_per_second=1_000, bad_rate=0.0
    )
    after = dt.datetime.now(dt.timezone.utc).timestamp() * 1_000
    assert told["seconds"] >= 1.4
    # None is sent before its own time, and they are not all held to be sent at the end, however busy the machine is.
    messages = kafka_broker.consume("live")
    early = [m.value() for m in messages if m.timestamp()[1] < at(json.loads(m.value())["event_timestamp"]) - 1]
    assert (len(messages), early) == (1_500, [])
    sent = sorted(m.timestamp()[1] for m in messages)
    assert sent[0] < sent[-1] - 500, "they came in one burst"
    assert before - 1_000 <= at(told["first_event_time"]) <= after


@pytest.mark.slow
def test_what_the_broker_forbids_is_said_plainly(secure_broker: KafkaBroker, tmp_path: Path) -> None:
    broker = secure_broker
    broker.create_topic("readable")
    broker.create_topic("writable", partitions=2)
    broker.allow("alice", "topic", "writable", "write")
    broker.allow("alice", "topic", "readable", "read")
    alice = {k: v for k, v in broker.settings("alice").items() if k != "bootstrap.servers"}

    def send(topic: str = "writable", **other: str) -> dict[str, Any]:
        settings = alice | {name.replace("_", "."): value for name, value in other.items()}
        return produce("ecommerce", brokers=broker.bootstrap, topic=topic, kafka=settings, total=200)

    assert send()["delivered"] == 200
    assert send(sasl_mechanism="PLAIN")["delivered"] == 200

    def refused(topic: str = "writable", **other: str) -> str:
        with pytest.raises(SourceError) as raised:
            send(topic, **other)
        said = str(raised.value)
        assert "alice-secret" not in said and "wrong-secret" not in said
        return said

    wrong = refused(sasl_password="wrong-secret")
    assert "does not accept who we say we are" in wrong and "sasl.password" in wrong
    assert "the TLS connection fails" in refused(ssl_ca_location=str(broker.other_ca))
    assert "no broker answered within 15 s" in refused(security_protocol="PLAINTEXT")
    assert "readable: the broker forbids us to write to this topic" in refused("readable")
    assert "the broker forbids us to make it" in refused("brandnew")
    assert sum(broker.end_offsets("writable").values()) == 400 and sum(broker.end_offsets("readable").values()) == 0

    # The command: the secret comes from the environment, and is nowhere in what it says.
    options = [part for name, value in alice.items() for part in ("--set-kafka", f"{name}={value}")]
    options = [part.replace("alice-secret", "${SECRET}") for part in options]
    arguments = ("produce", "ecommerce", "--brokers", broker.bootstrap, "--topic", "writable", *options)
    done = cli(*arguments, "--total-events", 50, cwd=tmp_path, SECRET="alice-secret")
    assert done.returncode == 0, done.stderr
    done = cli(*arguments, "--json", cwd=tmp_path, SECRET="wrong-secret")
    assert done.returncode == 3 and "does not accept" in done.stderr
    assert "wrong-secret" not in done.stdout + done.stderr
    done = cli(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and "SECRET is not set" in done.stderr


def test_a_mistake_is_said_before_anything_is_sent(kafka_broker: KafkaBroker, tmp_path: Path) -> None:
    kafka_broker.create_topic("small", partitions=2)
    broker = ("--brokers", kafka_broker.bootstrap, "--topic", "small")
    for arguments, reason in (
        ((), "Name a file with --to, or Kafka with --brokers"),
        ((*broker, "--partitions", 5), "topic small has 2, 5 were asked for"),
        ((*broker, "--set-kafka", "sasl.pasword=s3cret"), "sasl.pasword: librdkafka has no setting of this name"),
        ((*broker, "--set-kafka", "acks=s3cret"), "acks: librdkafka does not take this value"),
        ((*broker, "--set-kafka", "s3cret"), "write NAME=VALUE"),
        ((*broker, "--heartbeat", "soon"), "heartbeat"),
        ((*broker, "--events-per-second", "0"), "is no rate"),
        (("--brokers", kafka_broker.bootstrap, "--topic", "a b"), "is no name of a topic"),
        (("--brokers", kafka_broker.bootstrap, "--topic", "x", "--replication-factor", 3), "not as many brokers"),
        (("--brokers", "ada:s3cret@h:9092"), "brokers: an '@' stands in it: a broker is host:port"),
        (("--to", tmp_path / "e.jsonl", "--partitions", 3), "--partitions: is for Kafka"),
    ):
        done = cli("produce", "ecommerce", *arguments, cwd=tmp_path, KAFKA_BROKERS="")
        assert done.returncode in (2, 3) and reason in done.stderr.replace("\n", " "), (arguments, done.stderr)
        assert "Traceback" not in done.stderr and "s3cret" not in done.stderr
    assert sum(kafka_broker.end_offsets("small").values()) == 0
    with pytest.raises(SettingsError, match="KAFKA_BROKERS"):
        produce("ecommerce")


@pytest.mark.slow
def test_nobody_there_is_said_plainly(tmp_path: Path) -> None:
    from services import free_port

    port = free_port()
    done = cli("produce", "ecommerce", "--brokers", f"127.0.0.1:{port}", cwd=tmp_path)
    assert done.returncode == 3
    assert f"Kafka at 127.0.0.1:{port}: no broker answered within 15 s" in done.stderr
    assert "Connection refused" in done.stderr and not list(tmp_path.iterdir())


def test_a_broker_that_is_killed_and_comes_back_gets_every_event_once(tmp_path: Path) -> None:
    with KafkaBroker() as broker:
        broker.create_topic("events", partitions=2)
        killed: list[int] = []

        def kill(sent: dict[str, Any]) -> None:
            if sent["delivered"] > 5_000 and not killed:
                killed.append(sent["delivered"])
                broker.kill()
                broker.start(wait=False)

        told = produce(
            "ecommerce",
            brokers=broker.bootstrap,
            topic="events",
            total=30_000,
            events_per_second=5_000,
            on_progress=kill,
        )
        assert killed and killed[0] < 30_000
        broker.wait()
        there = count(broker.consume("events"))
        assert told["delivered"] == there["messages"] == 30_000
        assert told["bytes"] == there["bytes"] and told["undelivered"] == {}


def test_a_broker_that_goes_away_for_good_ends_it_with_what_was_delivered(tmp_path: Path) -> None:
    with KafkaBroker() as broker:
        broker.create_topic("events", partitions=2)
        told: list[dict[str, Any]] = []

        def kill(sent: dict[str, Any]) -> None:
            if sent["delivered"] > 3_000 and not told:
                broker.kill()
                told.append(sent)

        with pytest.raises(ProducerError) as raised:
            produce(
                "ecommerce",
                brokers=broker.bootstrap,
                topic="events",
                total=1_000_000,
                events_per_second=4_000,
                kafka={"message.timeout.ms": 10_000},
                on_progress=kill,
            )
        left = raised.value.produced
        assert left is not None and "message.timeout.ms" in str(raised.value) and told
        assert left["delivered"] == left["total"] >= told[0]["delivered"]
        assert sum(left["undelivered"].values()) > 0
        broker.start()
        # What it acknowledged is there; of what it did not, some may be.
        assert (
            left["delivered"] <= len(broker.consume("events")) <= left["delivered"] + sum(left["undelivered"].values())
        )


def test_python_is_not_held_up_and_can_stop_it(kafka_broker: KafkaBroker) -> None:
    def look(sent: dict[str, Any]) -> bool:
        return sent["delivered"] < 2_000

    with pytest.raises(ProducerStopped) as raised:
        produce(
            "ecommerce",
            brokers=kafka_broker.bootstrap,
            topic="python",
            total=10_000_000,
            events_per_second=20_000,
            on_progress=look,
        )
    assert raised.value.produced["delivered"] == sum(kafka_broker.end_offsets("python").values()) >= 2_000
    # Other threads of Python run meanwhile: it goes on until this one has counted far enough.
    counted, finished = threading.Event(), threading.Event()

    def send() -> None:
        with pytest.raises(ProducerStopped):
            produce(
                "ecommerce",
                brokers=kafka_broker.bootstrap,
                topic="python-2",
                total=10_000_000,
                events_per_second=1_000,
                on_progress=lambda _: not counted.is_set(),
            )
        finished.set()

    threading.Thread(target=send, daemon=True).start()
    for _ in range(100):
        assert not finished.wait(0.001)
    counted.set()
    assert finished.wait(120)
