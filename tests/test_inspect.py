"""A pipeline from outside: what `inspect` shows is what the lake, the state and the broker hold."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import duckdb
import pytest
from typer.testing import CliRunner

from kafka_support import Flow, message
from penstock import read_lake
from penstock.cli import app
from penstock.errors import SettingsError, SourceError
from services import free_port
from shop import Shop, event, some_events

if TYPE_CHECKING:
    from pathlib import Path

    from services.kafka import KafkaBroker


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A pipeline over files with flaws in them."""
    shop = Shop.make(tmp_path / "shop")
    shop.put("a", some_events(250))
    shop.put("b", [event(19, 5, "odd", "u1", -7)])
    shop.run()
    return shop


@pytest.fixture
def flow(kafka_broker: KafkaBroker, tmp_path: Path, request: pytest.FixtureRequest) -> Flow:
    """A pipeline over a topic with two partitions, with 20 events read."""
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)
    kafka_broker.create_topic(name, partitions=2)
    flow = Flow(tmp_path / name, kafka_broker, [name])
    for partition in (0, 1):
        kafka_broker.produce(
            name, [message(n) for n in range(10 * partition, 10 * partition + 10)], partition=partition
        )
    flow.run()
    return flow


def test_dead_letters_are_shown_as_they_are(shop: Shop) -> None:
    found = shop.pipeline().inspect(samples=3)
    assert found.counts.rejected_by_code == {"out_of_range": found.counts.rejected}
    letters = {
        (row["topic"], row["partition"], row["offset"]): row["problems"][0]
        for row in read_lake(shop.lake, "dead_letters").to_pyarrow().to_pylist()
        if row["code"] == "out_of_range"
    }
    assert sum(sample["code"] == "out_of_range" for sample in found.samples) == 3
    assert sum(sample["code"] == "late" for sample in found.samples) == min(3, found.counts.late)
    for sample in found.samples:
        if sample["code"] == "out_of_range":
            problem = letters[sample["topic"], sample["partition"], sample["offset"]]
            assert {name: problem[name] for name in ("pointer", "message", "value")} == {
                name: sample[name] for name in ("pointer", "message", "value")
            }
    assert shop.pipeline().inspect().samples == []


def test_the_ledger_and_the_partitions_are_those_of_the_run(shop: Shop) -> None:
    ledger = shop.run()
    found = shop.pipeline().inspect(broker=True)
    assert found.balanced and found.lag is None
    for name in ("consumed", "silver", "pending", "rejected", "duplicate", "late"):
        assert getattr(found.counts, name) == getattr(ledger, name)
    assert {p["topic"] for p in found.partitions} == {"in/a.jsonl", "in/b.jsonl"}
    sizes = {f"in/{path.name}": path.stat().st_size for path in (shop.folder / "in").iterdir()}
    assert {p["topic"]: p["position"] for p in found.partitions} == sizes
    assert not any(p["holds_back"] for p in found.partitions)
    # The only event of the other file is refused: it has no say in event time.
    assert [p["highest"] is not None for p in found.partitions] == [True, False]


def test_state_is_a_table_for_anybody(shop: Shop) -> None:
    keys = shop.pipeline().state("dedup/keys")
    assert keys.column_names == ["hash", "event_time"]
    with duckdb.connect() as connection:
        connection.register("keys", keys.to_pyarrow())
        [(count, distinct)] = connection.sql("SELECT count(*), count(DISTINCT hash) FROM keys").fetchall()
    seen = {row[2] for row in shop.rows()}
    # Keys whose time is over are forgotten; none stands there twice.
    assert 0 < distinct == count <= len(seen)
    partitions = shop.pipeline().state("source/partitions").to_pyarrow().to_pylist()
    assert sorted(p["topic"] for p in partitions) == ["in/a.jsonl", "in/b.jsonl"]
    with pytest.raises(SettingsError, match=r"there is no dedup/kesy; there are: dedup/keys, dedup/meta"):
        shop.pipeline().state("dedup/kesy")


def test_command_line(shop: Shop, tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["inspect", shop.file, "--samples", "2"])
    assert shown.exit_code == 0 and "it balances" in shown.stdout and "/amount: must be at least 0" in shown.stdout
    told = json.loads(CliRunner().invoke(app, ["inspect", shop.file, "--json"]).stdout.splitlines()[-1])
    assert told["lag"] is None and told["balanced"] and len(told["partitions"]) == 2
    assert {sample["code"] for sample in told["samples"]} >= {"out_of_range"}
    to = tmp_path / "keys.parquet"
    done = CliRunner().invoke(app, ["inspect", shop.file, "--state", "dedup/keys", "--to", str(to), "--json"])
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    with duckdb.connect() as connection:
        assert connection.sql(f"SELECT count(*) FROM '{to}'").fetchall() == [(rows,)]
    assert CliRunner().invoke(app, ["inspect", shop.file, "--state", "dedup/keys"]).exit_code == 2


def test_the_lag_is_what_the_broker_holds_and_nobody_has_read(flow: Flow) -> None:
    found = flow.pipeline().inspect(broker=True)
    assert [(p["partition"], p["position"], p["end"], p["lag"]) for p in found.partitions] == [
        (0, 10, 10, 0),
        (1, 10, 10, 0),
    ]
    flow.broker.add_partitions(flow.topics[0], 3)
    for partition, count in ((1, 4), (2, 3)):
        flow.broker.produce(flow.topics[0], [message(100 + n) for n in range(count)], partition=partition)
    found = flow.pipeline().inspect(broker=True)
    assert found.lag == 7
    assert [(p["partition"], p["position"], p["lag"]) for p in found.partitions] == [
        (0, 10, 0),
        (1, 10, 4),
        (2, None, 3),
    ]
    assert flow.pipeline().inspect().lag is None


def test_a_broker_that_is_not_there_leaves_the_lag_unknown(flow: Flow) -> None:
    found = flow.pipeline(brokers=f"127.0.0.1:{free_port()}", give_up="1s").inspect(broker=True)
    assert found.lag is None and "cannot be reached" in found.raw["broker_said"]
    assert found.counts.consumed == 20


def test_the_audit_counts_in_the_broker_too(flow: Flow) -> None:
    def checks() -> dict[str, tuple[bool, str]]:
        found = flow.pipeline().audit(broker=True)
        assert found.balanced == all(check.passed for check in found.checks)
        return {check.name: (check.passed, check.detail) for check in found.checks}

    assert checks()["messages in the broker = events planned"] == (True, "20 = 20")
    topic = flow.topics[0]
    # What was read may go; what was not must not.
    flow.broker.delete_records(topic, {0: 5})
    assert checks()["messages in the broker = events planned"][0]
    flow.broker.produce(topic, [message(200 + n) for n in range(5)], partition=1)
    flow.broker.delete_records(topic, {1: 12})
    assert checks()["nothing unread is gone"] == (False, f"{topic} 1: 10 to 11 are gone")
    flow.broker.delete_topic(topic)
    flow.broker.create_topic(topic, partitions=2)
    with pytest.raises(SourceError, match="made again"):
        flow.pipeline().audit(broker=True)


def test_files_have_no_broker(shop: Shop) -> None:
    with pytest.raises(SettingsError, match="there is no broker to ask"):
        shop.pipeline().audit(broker=True)
    assert CliRunner().invoke(app, ["audit", shop.file]).exit_code == 0
