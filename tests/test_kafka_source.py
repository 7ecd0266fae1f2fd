"""Topics of Kafka as a source: what comes out of them, where reading begins, what is found while it goes on."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from kafka_support import BEGAN, Flow, Running, event, message
from penstock.errors import SettingsError, SourceError
from services import until
from services.kafka import KafkaBroker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def topic(kafka_broker: KafkaBroker, request: pytest.FixtureRequest) -> str:
    """A topic of three partitions for one test."""
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)[:200]
    return kafka_broker.create_topic(name, partitions=3)


@pytest.fixture
def flow(kafka_broker: KafkaBroker, topic: str, tmp_path: Path) -> Flow:
    """A pipeline over it."""
    return Flow(tmp_path / topic, kafka_broker, [topic])


def wanted(numbers: range) -> list[str]:
    return sorted(f"e{n}" for n in numbers)


def test_every_event_comes_once_and_as_it_was(flow: Flow, topic: str) -> None:
    broker = flow.broker
    broker.produce(topic, [message(n) for n in range(500)])
    broker.produce(topic, [message(n) for n in range(0, 500, 50)])
    broker.produce(topic, [{"value": None, "key": b"gone", "timestamp": BEGAN}, b"no json", b""], partition=1)
    broker.produce(
        topic,
        [{"value": event(500), "key": b"\xff\x00", "headers": [("h", b"1"), ("h", None), ("e", b"")], "timestamp": 7}],
        partition=2,
    )
    ends = broker.end_offsets(topic)
    found = flow.run()
    assert (found.consumed, found.duplicate, found.rejected) == (514, 10, 3)
    assert found.rejected_by_code == {"malformed_json": 2, "not_an_object": 1}
    assert flow.ids() == wanted(range(501))

    rows = flow.rows()
    assert {p: sum(1 for r in rows if r["partition"] == p) for p in ends} == ends
    sent = {(m.partition(), m.offset()): m for m in broker.consume(topic)}
    for row in rows:
        was = sent[row["partition"], row["offset"]]
        assert (row["value"], row["key"]) == (was.value(), was.key())
        assert row["topic"] == topic
        assert row["timestamp"] == dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc) + dt.timedelta(
            milliseconds=was.timestamp()[1]
        )
        assert row["timestamp_type"] == "create_time"
        assert [(h["key"], h["value"]) for h in row["headers"] or []] == (was.headers() or [])
    assert sum(1 for row in rows if row["value"] is None) == 1
    assert sum(1 for row in rows if row["value"] == b"") == 1
    flow.audit()

    assert flow.run().run.consumed == 0
    assert broker.group_offsets(flow.group, topic) == ends
    first, *_ = flow.log()
    assert first["ticks"] == [], "where reading begins is settled by an empty epoch 0"
    kafka = first["partitions"][0]["kafka"]
    assert kafka["cluster"] and kafka["topic_id"]


def test_the_broker_can_say_when_messages_came(kafka_broker: KafkaBroker, tmp_path: Path) -> None:
    topic = kafka_broker.create_topic("appended", config={"message.timestamp.type": "LogAppendTime"})
    kafka_broker.produce(topic, [message(n) for n in range(3)])
    flow = Flow(tmp_path / topic, kafka_broker, [topic])
    flow.run()
    assert {row["timestamp_type"] for row in flow.rows()} == {"log_append_time"}
    assert all(row["timestamp"].year > 2025 for row in flow.rows())


@pytest.mark.parametrize("failpoint", ["plan.after=kill", "files.between@2=kill", "commit.before@2=kill"])
def test_a_killed_run_reads_its_ranges_again(flow: Flow, topic: str, failpoint: str) -> None:
    flow.settings = {"epoch": {"max_events": 150, "tick": "20ms"}}
    flow.broker.produce(topic, [message(n) for n in range(400)])
    with Running(flow, "--until-caught-up", failpoint=failpoint) as killed:
        assert killed.end() == -signal.SIGKILL
    # What comes in between belongs to a later epoch.
    flow.broker.produce(topic, [message(n) for n in range(400, 500)])
    found = flow.run()
    assert (found.consumed, found.duplicate) == (500, 0)
    assert flow.ids() == wanted(range(500))
    flow.audit()


def test_caught_up_is_what_was_there_at_the_start(flow: Flow, topic: str) -> None:
    flow.settings = {"epoch": {"max_events": 100}}
    flow.broker.produce(topic, [message(n) for n in range(300)])
    more = iter([range(300, 450)])

    def produce_once(found: dict[str, Any]) -> None:
        if found["event"] == "progress":
            for numbers in more:
                flow.broker.produce(topic, [message(n) for n in numbers])

    found = flow.pipeline().run(on_event=produce_once, progress=False)
    assert found.consumed == 300
    assert flow.run().consumed == 450
    assert flow.ids() == wanted(range(450))


class TestStart:
    """Where a pipeline without history begins."""

    @pytest.fixture
    def halves(self, flow: Flow, topic: str) -> dict[int, int]:
        """The ends of the partitions after the first 100 of 200 events."""
        flow.broker.produce(topic, [message(n) for n in range(100)])
        ends = flow.broker.end_offsets(topic)
        flow.broker.produce(topic, [message(n) for n in range(100, 200)])
        return ends

    def test_earliest(self, flow: Flow, halves: dict[int, int]) -> None:
        assert flow.run(start="earliest").consumed == 200

    def test_a_time(self, flow: Flow, halves: dict[int, int]) -> None:
        at = dt.datetime.fromtimestamp((BEGAN + 100_000) / 1000, dt.timezone.utc).isoformat()
        assert flow.run(start=at).consumed == 100
        assert flow.ids() == wanted(range(100, 200))

    def test_a_time_to_come(self, flow: Flow, topic: str, halves: dict[int, int]) -> None:
        assert flow.run(start="2100-01-01").consumed == 0
        flow.broker.produce(topic, [message(n) for n in range(200, 210)])
        assert flow.run(start="2100-01-01").consumed == 10

    def test_offsets(self, flow: Flow, topic: str, halves: dict[int, int]) -> None:
        assert flow.run(start={topic: halves}).consumed == 100
        assert flow.ids() == wanted(range(100, 200))

    def test_offsets_that_are_not_there(self, flow: Flow, topic: str, halves: dict[int, int]) -> None:
        with pytest.raises(SettingsError, match=r"partition 1; give one for each"):
            flow.run(start={topic: {0: 0, 2: 0}})
        with pytest.raises(SettingsError, match=r"offset 9999 of topic .*, partition 0 is not there"):
            flow.run(start={topic: {0: 9999, 1: 0, 2: 0}})
        with pytest.raises(SettingsError, match="no partition 7"):
            flow.run(start={topic: {0: 0, 1: 0, 2: 0, 7: 0}})

    def test_latest_is_settled_once(self, flow: Flow, topic: str, halves: dict[int, int]) -> None:
        """Also when the run that settled it died at once."""
        with Running(flow, "--until-caught-up", failpoint="commit.after=kill", start="latest") as killed:
            assert killed.end() == -signal.SIGKILL
        flow.broker.produce(topic, [message(n) for n in range(200, 230)])
        assert flow.run(start="latest").consumed == 30
        assert flow.ids() == wanted(range(200, 230))


def test_new_partitions_are_found_and_read_from_their_beginning(flow: Flow, topic: str) -> None:
    flow.broker.produce(topic, [message(n) for n in range(60)])
    own = {"topic.metadata.refresh.interval.ms": 200}
    with Running(flow, start="earliest", **own) as run:
        run.wait("the first events", lambda: run.consumed() == 60)
        flow.broker.add_partitions(topic, 5)
        flow.broker.produce(topic, [message(n) for n in range(60, 90)], partition=4)
        run.wait("those of the new partition", lambda: run.consumed() == 90)
        assert run.stop() == 0
    flow.broker.add_partitions(topic, 6)
    flow.broker.produce(topic, [message(n) for n in range(90, 95)], partition=5)
    assert flow.run(start="latest").consumed == 95
    assert flow.ids() == wanted(range(95))
    flow.audit()


def test_a_topic_may_come_later(kafka_broker: KafkaBroker, flow: Flow, topic: str) -> None:
    flow.topics = [topic, f"{topic}-later"]
    flow.broker.produce(topic, [message(n) for n in range(10)])
    with Running(flow, **{"topic.metadata.refresh.interval.ms": 200}) as run:
        run.wait("the warning", lambda: run.seen("warning", code="missing_topic"))
        run.wait("the events of the topic that is there", lambda: run.consumed() == 10)
        kafka_broker.create_topic(f"{topic}-later", partitions=2)
        kafka_broker.produce(f"{topic}-later", [message(n) for n in range(10, 30)])
        run.wait("those of the new topic", lambda: run.consumed() == 30)
        assert run.stop() == 0
    assert flow.ids() == wanted(range(30))
    assert {row["topic"] for row in flow.rows()} == set(flow.topics)


def test_the_group_is_told_nothing_of_a_plan(flow: Flow, topic: str) -> None:
    """What is planned is read again by the next run, and told when it is committed."""
    flow.broker.produce(topic, [message(n) for n in range(10)])
    assert flow.run().consumed == 10
    told = flow.broker.group_offsets(flow.group, topic)
    assert sum(told.values()) == 10
    flow.broker.produce(topic, [message(n) for n in range(10, 30)])
    for place in ("plan.after", "commit.before"):
        with Running(flow, "--until-caught-up", failpoint=f"{place}=kill") as killed:
            assert killed.end() == -signal.SIGKILL
        assert flow.broker.group_offsets(flow.group, topic) == told
    assert flow.run().consumed == 30
    assert sum(flow.broker.group_offsets(flow.group, topic).values()) == 30


def test_a_broker_that_hangs_does_not_hold_up_a_stop(kafka_broker: KafkaBroker, flow: Flow, topic: str) -> None:
    """Nobody answers what the group is told: that is not waited for long, and nothing is lost."""
    flow.broker.produce(topic, [message(n) for n in range(10)])
    server = kafka_broker.process
    assert server is not None
    with Running(flow) as run:
        run.wait("the events", lambda: run.consumed() == 10)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            assert run.stop() == 0
            assert run.seen("stopped"), "it did not end by itself"
        finally:
            os.kill(server.pid, signal.SIGCONT)
    kafka_broker.wait()
    flow.broker.produce(topic, [message(n) for n in range(10, 20)])
    assert flow.run().consumed == 20
    assert flow.ids() == wanted(range(20))


def test_a_topic_that_is_not_there(flow: Flow, topic: str) -> None:
    flow.topics = [topic, "no-such-topic"]
    with pytest.raises(SourceError, match=r"topic no-such-topic: there is no such topic; make it"):
        flow.run()
    flow.broker.produce(topic, [message(n) for n in range(10)])
    assert flow.run(missing_topics="wait").consumed == 10
    assert flow.warnings() == ["missing_topic"]


def test_a_topic_that_is_named_no_more_keeps_its_place(kafka_broker: KafkaBroker, flow: Flow, topic: str) -> None:
    other = kafka_broker.create_topic(f"{topic}-other")
    flow.topics = [topic, other]
    kafka_broker.produce(topic, [message(n) for n in range(10)])
    kafka_broker.produce(other, [message(n) for n in range(10, 20)])
    assert flow.run().consumed == 20
    flow.topics = [topic]
    kafka_broker.produce(topic, [message(n) for n in range(20, 30)])
    kafka_broker.produce(other, [message(n) for n in range(30, 40)])
    assert flow.run().consumed == 30
    flow.topics = [topic, other]
    assert flow.run().consumed == 40
    assert flow.ids() == wanted(range(40))


class TestTransactions:
    """Only what was committed is read; control records leave gaps in the offsets."""

    @pytest.fixture
    def producer(self, kafka_broker: KafkaBroker, topic: str) -> Iterator[Any]:
        from confluent_kafka import Producer

        client = Producer(
            {**kafka_broker.settings(), "transactional.id": f"tx-{topic}", "transaction.timeout.ms": 600_000}
        )
        client.init_transactions(60)
        yield client
        client.purge()

    def send(self, producer: Any, topic: str, numbers: range) -> None:
        producer.begin_transaction()
        for n in numbers:
            producer.produce(topic, json.dumps(event(n)), partition=n % 3)
        producer.flush(60)

    def test_committed_aborted_and_open(self, flow: Flow, topic: str, producer: Any) -> None:
        for first in (0, 100, 200):
            self.send(producer, topic, range(first, first + 30))
            if first == 100:
                producer.abort_transaction(60)
            else:
                producer.commit_transaction(60)
        self.send(producer, topic, range(300, 330))
        flow.broker.produce(topic, [message(n) for n in range(400, 410)], partition=0)
        found = flow.run()
        # What stands behind an open transaction waits for it.
        assert found.consumed == 60
        assert flow.ids() == sorted(wanted(range(30)) + wanted(range(200, 230)))
        assert flow.run().run.consumed == 0
        producer.commit_transaction(60)
        until("all to be stable", lambda: flow.broker.end_offsets(topic, stable=True) == flow.broker.end_offsets(topic))
        assert flow.run().consumed == 100
        assert flow.run().run.epochs == 0, "nothing is left, though the last offsets hold no events"
        flow.audit()

    def test_an_epoch_over_gaps_is_read_again(self, flow: Flow, topic: str, producer: Any) -> None:
        for first in range(0, 200, 20):
            self.send(producer, topic, range(first, first + 20))
            if first % 40:
                producer.abort_transaction(60)
            else:
                producer.commit_transaction(60)
        with Running(flow, "--until-caught-up", failpoint="commit.before@2=kill") as killed:
            assert killed.end() == -signal.SIGKILL
        assert flow.run().consumed == 100
        flow.audit()


def test_offsets_go_to_the_group_after_each_commit(flow: Flow, topic: str) -> None:
    flow.broker.produce(topic, [message(n) for n in range(90)])
    with Running(flow) as run:
        run.wait("the events", lambda: run.consumed() == 90)
        ends = flow.broker.end_offsets(topic)
        run.wait("the group to know", lambda: flow.broker.group_offsets(flow.group, topic) == ends)
        assert run.stop() == 0


def test_a_group_with_other_members_is_a_warning(flow: Flow, topic: str) -> None:
    from confluent_kafka import Consumer

    flow.broker.produce(topic, [message(n) for n in range(9)])
    other = Consumer({**flow.broker.settings(), "group.id": flow.group, "auto.offset.reset": "earliest"})
    try:
        other.subscribe([topic])
        assert other.consume(1, 60)
        assert flow.run().consumed == 9
        assert flow.warnings() == ["offsets_not_committed"]
        said = next(found["message"] for found in flow.events if found["event"] == "warning")
        assert "give Penstock one of its own by source.kafka.group" in said
    finally:
        other.close()


def test_how_far_it_is_behind_is_told(flow: Flow, topic: str) -> None:
    flow.broker.produce(topic, [message(n) for n in range(300)])
    flow.run()
    told = [p for found in flow.events for p in found.get("partitions", ()) if p.get("lag") is not None]
    ends = flow.broker.end_offsets(topic)
    assert {p["partition"]: p["end"] for p in told} == ends
    assert [p["lag"] for p in told][-3:] == [0, 0, 0]


class TestSettings:
    """librdkafka's own settings pass through by their names."""

    def test_an_unknown_name(self, flow: Flow) -> None:
        with pytest.raises(SettingsError, match=r"source\.kafka\.fetch\.max\.bites: No such configuration property"):
            flow.run(**{"fetch.max.bites": 5})

    def test_a_wrong_value(self, flow: Flow) -> None:
        with pytest.raises(SettingsError, match=r"source\.kafka\.fetch\.wait\.max\.ms"):
            flow.run(**{"fetch.wait.max.ms": "soon"})

    @pytest.mark.parametrize("name", ["auto.offset.reset", "enable.auto.commit", "group.id", "bootstrap.servers"])
    def test_what_is_set_elsewhere(self, flow: Flow, name: str) -> None:
        with pytest.raises(SettingsError, match=rf"source\.kafka\.{name}: Penstock sets this itself"):
            flow.run(**{name: "x"})

    def test_a_topic_that_is_none(self, flow: Flow) -> None:
        flow.topics = ["events.*"]
        with pytest.raises(SettingsError, match="is no name of a topic"):
            flow.run()

    def test_they_work(self, flow: Flow, topic: str) -> None:
        flow.broker.produce(topic, [message(n) for n in range(100)])
        # One message of the wire at a time, so small is the fetch; and no transaction is waited for.
        found = flow.run(fetch={"message.max.bytes": 200}, isolation={"level": "read_uncommitted"})
        assert found.consumed == 100


def test_confluents_wire_format_is_recognised(flow: Flow, topic: str) -> None:
    framed = b"\x00\x00\x00\x01\x07" + json.dumps(event(1)).encode()
    flow.broker.produce(topic, [framed, framed], partition=0)
    found = flow.run()
    assert found.rejected_by_code == {"malformed_json": 2}
    assert flow.warnings() == ["schema_registry_format"], "once a topic"
    said = next(found["message"] for found in flow.events if found["event"] == "warning")
    assert "schema 263 of a schema registry" in said
    letter = flow.rows("dead_letters")[0]
    assert "schema registry" in json.dumps(letter, default=str)


def test_large_messages(kafka_broker: KafkaBroker, tmp_path: Path) -> None:
    topic = kafka_broker.create_topic("large", config={"max.message.bytes": str(9 << 20)})
    texts = [os.urandom(3 << 20).hex() for _ in range(3)]
    kafka_broker.produce(
        topic, [event(n, text=text) for n, text in enumerate(texts)], config={"message.max.bytes": 9 << 20}
    )
    flow = Flow(tmp_path / topic, kafka_broker, [topic], settings={"limits": {"max_bytes": "8MiB"}})
    assert flow.run().silver == 3
    assert [len(row["value"]) > 6 << 20 for row in flow.rows()] == [True] * 3


def test_a_broker_that_comes_back(tmp_path: Path) -> None:
    """A run without end waits for its broker, and loses and doubles nothing."""
    with KafkaBroker() as broker:
        topic = broker.create_topic("events", partitions=3)
        flow = Flow(tmp_path / "flow", broker, [topic])
        broker.produce(topic, [message(n) for n in range(100)])
        with Running(flow) as run:
            run.wait("the first events", lambda: run.consumed() == 100)
            broker.kill()
            run.wait("the warning", lambda: run.seen("warning", code="brokers_unreachable"))
            broker.start()
            broker.produce(topic, [message(n) for n in range(100, 200)])
            run.wait("the others", lambda: run.consumed() == 200)
            assert run.stop() == 0
        assert flow.ids() == wanted(range(200))
        # What the group could not be told while the broker was on its way back comes with the next events.
        broker.produce(topic, [message(n) for n in range(200, 203)])
        assert flow.run().consumed == 203
        assert broker.group_offsets(flow.group, topic) == broker.end_offsets(topic)
        flow.audit()


@pytest.mark.slow
def test_nothing_is_planned_while_nobody_says_what_the_topics_are(tmp_path: Path) -> None:
    """What was read may come from a topic that was made again: it is asked until somebody answers."""
    with KafkaBroker() as broker:
        topic = broker.create_topic("events", partitions=3)
        flow = Flow(tmp_path / "flow", broker, [topic], source={"give_up": "3s"})
        broker.produce(topic, [message(n) for n in range(100)])
        assert flow.run(max_epochs=1).consumed == 0, "where it begins is an epoch of its own"
        for options, code in ((["--until-caught-up"], 3), ([], 0)):
            planned = len(flow.log())
            with Running(flow, *options, failpoint="read.after=stop") as run:
                run.wait("it to stand still", lambda: "failpoint read.after" in run.said)
                broker.kill()
                run.process.send_signal(signal.SIGCONT)
                if code:
                    assert run.end() == code
                    assert "cannot be reached" in run.said
                else:
                    run.wait("the warning", lambda: run.seen("warning", code="brokers_unreachable"))
                assert len(flow.log()) == planned
                broker.start()
                if not code:
                    run.wait("the events", lambda: run.consumed() == 100)
                    assert run.stop() == 0
        assert flow.ids() == wanted(range(100))
        flow.audit()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_after_a_run_can_run(flow: Flow, topic: str) -> None:
    flow.broker.produce(topic, [message(n) for n in range(30)])
    pipeline = flow.pipeline()
    assert pipeline.run(progress=False).consumed == 30
    flow.broker.produce(topic, [message(n) for n in range(30, 50)])
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if pipeline.run(progress=False).consumed == 50 else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert flow.run().consumed == 50
