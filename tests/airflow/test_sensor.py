"""The sensor, over real Kafka: it waits for events, outside of the worker, and knows no secret there."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import penstock
from penstock.errors import SettingsError
from penstock.generate import generate
from penstock.waiting import Waiting
from services import until

if TYPE_CHECKING:
    from conftest import Airflow
    from services.kafka import KafkaBroker

UTC = dt.timezone.utc
MOMENT = dt.datetime(2024, 12, 17, 2, tzinfo=UTC)
MICROS = int(MOMENT.timestamp()) * 1_000_000
MINUTE = 60_000


class Topic:
    """A topic with two partitions, and the pipeline that reads it."""

    def __init__(self, broker: KafkaBroker, folder: Path) -> None:
        self.broker = broker
        self.name = broker.create_topic(f"waited-{folder.name}", partitions=2)
        generate("ecommerce", folder / "events.jsonl", total=40, start="2024-12-17", progress=False)
        self.events = (folder / "events.jsonl").read_text().splitlines()
        self.overrides: dict[str, Any] = {
            "source.kafka.topics": [self.name],
            "source.kafka.group": f"group-{self.name}",
            "lake": str(folder / "lake"),
        }

    def put(self, partition: int, minutes: int) -> None:
        """A message, so many minutes after the moment."""
        at = MICROS // 1000 + minutes * MINUTE
        self.broker.produce(self.name, [{"value": self.events.pop(), "timestamp": at}], partition=partition)

    def flow(self) -> penstock.Pipeline:
        return penstock.Pipeline.load("ecommerce", {**self.overrides, "source.kafka.brokers": self.broker.bootstrap})


@pytest.fixture
def topic(kafka_broker: KafkaBroker, tmp_path: Path) -> Topic:
    return Topic(kafka_broker, tmp_path)


def test_every_partition_has_to_have_come_so_far(topic: Topic) -> None:
    waiting = Waiting(topic.flow(), until=MICROS)
    assert not waiting.look().ready
    topic.put(0, -1)
    topic.put(1, 0)
    look = waiting.look()
    assert not look.ready and look.said.endswith(f"2024-12-17 02:00:00 UTC have come: {topic.name} 0")
    topic.put(0, 5)
    look = waiting.look()
    assert look.ready and look.said == "ecommerce: events up to 2024-12-17 02:00:00 UTC have come in all 2 partitions"


def test_a_partition_that_gets_nothing_is_not_waited_for_for_ever(topic: Topic) -> None:
    times = iter((0.0, 50.0, 60.0, 61.0, 121.0))
    waiting = Waiting(topic.flow(), until=MICROS, idle_timeout=60, clock=lambda: next(times))
    topic.put(1, 1)
    assert [waiting.look().ready for _ in range(3)] == [False, False, True]
    # One that still gets older events is behind, not idle.
    topic.put(0, -30)
    assert not waiting.look().ready
    look = waiting.look()
    assert look.ready and look.said.endswith("but for 1 that get nothing")


def test_lag_and_watermark(topic: Topic) -> None:
    flow = topic.flow()
    lag, lake = Waiting(flow, lag_at_most=1), Waiting(flow, until=0, by="lake")
    later = Waiting(flow, until=MICROS + 4000 * 86_400_000_000, by="lake", lag_at_most=1)
    for partition in (0, 1):
        topic.put(partition, 0)
    assert not lag.look().ready and not lake.look().ready and "nothing in the lake yet" in lake.look().said
    flow.run(progress=False)
    assert lag.look().ready and lake.look().ready and lag.look().said == "ecommerce: the lag is 0 (1 at most)"
    assert not later.look().ready and "has not passed 2035-11-30 02:00:00 UTC" in later.look().said
    for partition in (0, 1):
        topic.put(partition, 1)
    assert not lag.look().ready


def test_a_wish_that_makes_no_sense(topic: Topic) -> None:
    for wish in ({}, {"until": 1, "by": "heart"}):
        with pytest.raises(SettingsError):
            Waiting(topic.flow(), **wish)


def test_files_are_not_waited_for(topic: Topic, tmp_path: Path) -> None:
    flow = penstock.Pipeline.load("ecommerce", {"source.files.paths": [str(tmp_path / "*.jsonl")]})
    assert Waiting(flow, until=MICROS, lag_at_most=0).look().ready


DAG = """\
import datetime as dt
from airflow.sdk import DAG
from penstock.airflow import *

with DAG("tested", schedule=None, start_date=dt.datetime(2024, 1, 1), params={{"until": "{moment}"}}) as dag:
    PenstockSensor(task_id="wait", until="{{{{ params.until }}}}", poke_interval=0.1, pipeline="ecommerce",
                   kafka_conn_id="tested_kafka", overrides={overrides!r})
"""


def test_it_waits_in_the_triggerer(airflow: Airflow, topic: Topic, connection: Any) -> None:
    from airflow.models.trigger import Trigger
    from airflow.utils.session import create_session

    own = {"bootstrap.servers": topic.broker.bootstrap, "ssl.key.password": "hidden-key"}
    connection("tested_kafka", conn_type="kafka", extra=own)
    rows: list[Trigger] = []

    def deferred() -> bool:
        with create_session() as session:
            rows.extend(session.query(Trigger).filter(Trigger.classpath.like("penstock%")))
            session.expunge_all()
        return bool(rows)

    def comes() -> None:
        until("the task waits in the triggerer", deferred, every=0.2)
        for partition in (0, 1):
            topic.put(partition, 1)

    thread = threading.Thread(target=comes)
    thread.start()
    ran = airflow.run(DAG.format(moment=MOMENT.isoformat(), overrides=topic.overrides))
    thread.join()
    assert set(ran.states.values()) == {"success"}, ran.log[-6000:]
    assert ran.xcom("wait")["said"].endswith("have come in all 2 partitions")
    assert "not all events up to 2024-12-17 02:00:00 UTC have come" in ran.log
    kept = json.dumps(rows[0].kwargs, default=str)
    assert "tested_kafka" in kept and str(MICROS) in kept
    assert topic.broker.bootstrap not in kept and "hidden" not in kept and "hidden" not in ran.log
    # What has come needs no triggerer.
    before = len(rows)
    ran = airflow.run(DAG.format(moment=MOMENT.isoformat(), overrides=topic.overrides))
    assert set(ran.states.values()) == {"success"} and "deferr" not in ran.log.lower() and len(rows) == before


def test_a_triggerer_that_is_started_again_goes_on(topic: Topic, connection: Any) -> None:
    from airflow.sdk.module_loading import import_string

    from penstock.airflow import PenstockTrigger

    connection("tested_kafka", conn_type="kafka", extra={"bootstrap.servers": topic.broker.bootstrap})
    trigger = PenstockTrigger(
        pipeline="ecommerce",
        overrides=topic.overrides,
        until=MICROS,
        poke_interval=0.05,
        kafka_conn_id="tested_kafka",
    )

    async def both() -> dict[str, Any]:
        path, kept = trigger.serialize()
        first = asyncio.create_task(anext(trigger.run()))  # type: ignore[arg-type]
        done, _ = await asyncio.wait([first], timeout=1)
        assert not done
        first.cancel()
        again = import_string(path)(**json.loads(json.dumps(kept)))
        second = asyncio.create_task(anext(again.run()))
        ticks = 0
        for partition in (0, 1):
            await asyncio.to_thread(topic.put, partition, 1)
        while not second.done():
            # The loop is free while it looks.
            await asyncio.sleep(0.01)
            ticks += 1
        return dict(second.result().payload)

    found = asyncio.run(both())
    assert found["ready"] and "have come" in found["said"]


def test_a_trigger_that_cannot_look_says_why(topic: Topic, connection: Any) -> None:
    from penstock.airflow import PenstockSensor, PenstockTrigger
    from penstock.errors import SourceError

    connection("tested_kafka", conn_type="kafka", extra={"bootstrap.servers": "127.0.0.1:1"})
    quick = {**topic.overrides, "source.kafka.give_up": "100ms"}
    trigger = PenstockTrigger(
        pipeline="ecommerce", overrides=quick, until=MICROS, kafka_conn_id="tested_kafka", patience=0
    )
    event = asyncio.run(anext(trigger.run())).payload  # type: ignore[arg-type]
    assert "127.0.0.1:1" in event["error"]
    with pytest.raises(SourceError, match=r"127\.0\.0\.1:1"):
        PenstockSensor(task_id="wait", pipeline="ecommerce").resume({}, event)


def test_a_broker_that_is_away_for_a_while_is_asked_again(
    topic: Topic, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from penstock.airflow import PenstockTrigger
    from penstock.errors import SourceError
    from penstock.waiting import Look, Waiting

    connection("tested_kafka", conn_type="kafka", extra={"bootstrap.servers": "127.0.0.1:1"})
    looks: list[Look | SourceError] = [SourceError("away"), SourceError("away"), Look(ready=True, said="there")]

    def look(_: Waiting) -> Look:
        found = looks.pop(0)
        if isinstance(found, SourceError):
            raise found
        return found

    monkeypatch.setattr(Waiting, "look", look)
    given: dict[str, Any] = {"pipeline": "ecommerce", "overrides": topic.overrides, "kafka_conn_id": "tested_kafka"}
    trigger = PenstockTrigger(until=MICROS, poke_interval=0.0, **given)
    event = asyncio.run(anext(trigger.run())).payload  # type: ignore[arg-type]
    assert event == {"ready": True, "said": "there"} and not looks
