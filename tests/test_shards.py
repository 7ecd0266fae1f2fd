"""A pipeline in shards over a real Kafka: the same rows and the same ledger as in one piece."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pytest

import penstock
from kafka_support import BEGAN, CONTRACT, Flow, Running, event, message
from penstock.errors import LakeError, PenstockError, SettingsError
from test_cli import cli, found, ok

if TYPE_CHECKING:
    from pathlib import Path

    from services.kafka import KafkaBroker

LAYERS = ("bronze/events", "silver/events", "silver/sessions", "dead_letters", "gold/by_user")
# What says when and in which epoch, not what.
OWN = {"ingested_at", "epoch", "rejected_at"}
SETTINGS = {
    "sessions": {"gap": "60s", "max_duration": "5m"},
    "windows": [{"name": "by_user", "size": "1m", "by": ["user"], "aggregates": {"n": "count()"}}],
    "epoch": {"max_events": 150, "max_wait": "200ms", "tick": "20ms"},
}


def fill(broker: KafkaBroker, topic: str) -> None:
    """A thousand events of ten users, each through one partition; duplicates, and some that are none."""
    broker.create_topic(topic, partitions=4)
    broker.produce(topic, [message(n) for n in range(1_000)])
    broker.produce(topic, [message(n) for n in range(0, 1_000, 50)])
    bad = [{"value": event(n, at="soon"), "key": f"u{n % 10}", "timestamp": BEGAN} for n in range(2_000, 2_030)]
    broker.produce(topic, [*bad, {"value": b"no json", "key": "u1", "timestamp": BEGAN}])


def flow(broker: KafkaBroker, topic: str, folder: Path, **settings: Any) -> Flow:
    return Flow(folder, broker, [topic], settings={**SETTINGS, **settings}, keyed_by="entity")


def rows(of: Flow, layer: str) -> list[str]:
    """The rows of a layer without what differs between two runs, sorted."""
    table = pa.table(penstock.read_lake(of.folder / "lake", layer))
    assert table.num_rows
    kept = [name for name in table.column_names if name not in OWN]
    return sorted(repr(row) for row in table.select(kept).to_pylist())


def ledger(of: Flow) -> dict[str, Any]:
    raw = of.pipeline().inspect().raw
    names = ("consumed", "silver", "pending", "rejected", "duplicate", "late", "bronze", "dead_letters", "sessions")
    return {name: raw[name] for name in (*names, "rejected_by_code", "balanced")}


def same(shards: Flow, whole: Flow) -> None:
    """Row for row, and in the ledger."""
    for layer in LAYERS:
        assert rows(shards, layer) == rows(whole, layer), layer
    assert ledger(shards) == ledger(whole)
    shards.audit()
    whole.audit()


@pytest.fixture(scope="module")
def topic(kafka_broker: KafkaBroker) -> str:
    fill(kafka_broker, "sharded")
    return "sharded"


@pytest.fixture(scope="module")
def whole(kafka_broker: KafkaBroker, topic: str, tmp_path_factory: pytest.TempPathFactory) -> Flow:
    """The same in one piece."""
    made = flow(kafka_broker, topic, tmp_path_factory.mktemp("whole"))
    ran = made.run(drain=True)
    assert (ran.consumed, ran.duplicate, ran.rejected, ran.pending) == (1_051, 20, 31, 0)
    return made


def test_two_shards_are_the_whole(kafka_broker: KafkaBroker, topic: str, whole: Flow, tmp_path: Path) -> None:
    shards = flow(kafka_broker, topic, tmp_path / "two")
    one = shards.run(drain=True, shard="1/2")
    assert 0 < one.consumed < 1_051 and one.raw["shard"] == {"number": 1, "of": 2}
    # The other has not begun: what there is can be looked at.
    seen = shards.pipeline().inspect()
    assert (seen.counts.consumed, [s["last"] is None for s in seen.shards]) == (one.consumed, [False, True])
    apart = next(c for c in shards.pipeline().audit().checks if c.name == "no partition is read by two shards")
    assert apart.passed and apart.detail == "2 partitions, each by one; nothing was committed yet by shards [2]"
    shards.audit()
    two = shards.run(drain=True, shard="2/2")
    assert one.consumed + two.consumed == 1_051
    same(shards, whole)

    seen = shards.pipeline().inspect(epochs=3)
    assert [s["consumed"] for s in seen.shards] == [one.consumed, two.consumed]
    assert len(seen.epochs) == 3 and len(seen.partitions) == 4
    assert {int(p["partition"]) % 2 for p in seen.partitions} == {0, 1}
    files = shards.pipeline().manifest()
    assert sum(f["rows"] for f in files.files if f["layer"] == "silver/events") == 1_000
    assert set(files.raw["shards"]) == {"1", "2"}
    numbers = {path.rsplit("/", 1)[-1].split("-")[1] for path in files.paths}
    assert numbers == {"0001", "0002"}
    log = shards.folder / "lake/_penstock/flow"
    assert sorted(p.name for p in log.iterdir()) == ["0001", "0002", "contracts", "pipeline.json"]
    assert json.loads((log / "pipeline.json").read_text())["shards"] == 2
    # A shard more than there are partitions for has nothing to do; the group was told of all.
    assert kafka_broker.group_offsets(shards.group, topic) == kafka_broker.end_offsets(topic)
    again = shards.run(shard="1/2")
    assert (again.run.consumed, again.raw["term"]) == (0, 2), "each shard has terms of its own"
    assert shards.run(shard="2/2").raw["term"] == 2


def test_a_killed_shard_goes_on_beside_the_other(
    kafka_broker: KafkaBroker, topic: str, whole: Flow, tmp_path: Path
) -> None:
    shards = flow(kafka_broker, topic, tmp_path / "killed")
    with Running(shards, "--until-caught-up", "--shard=1/2", failpoint="commit.before@2=kill") as killed:
        assert killed.end() == -signal.SIGKILL
    shards.run(drain=True, shard="2/2")
    seen = shards.pipeline().inspect()
    assert seen.planned is not None and [s["planned"] is None for s in seen.shards] == [False, True]
    shards.audit()
    shards.run(drain=True, shard="1/2")
    same(shards, whole)


def test_shards_at_once_and_a_retry_that_takes_one_over(kafka_broker: KafkaBroker, tmp_path: Path) -> None:
    """Three processes: both shards, and the first a second time. It takes its own shard over, and leaves the other."""
    fill(kafka_broker, "sharded-at-once")
    shards = flow(kafka_broker, "sharded-at-once", tmp_path / "at-once")
    with Running(shards, "--shard=1/2") as first, Running(shards, "--shard=2/2") as second:
        for run in (first, second):
            run.wait("a commit", lambda run=run: run.consumed() > 0)
        with Running(shards, "--shard=1/2") as retry:
            retry.wait("its term", lambda: retry.seen("started", term=2))
            kafka_broker.produce("sharded-at-once", [message(n) for n in range(1_000, 1_100)])
            assert first.end() == 3 and "SupersededError" in first.said
            runs = (first, retry, second)
            retry.wait("all of it", lambda: sum(run.consumed() for run in runs) == 1_151)
            assert (retry.stop(), second.stop()) == (0, 0)
    for shard in ("1/2", "2/2"):
        shards.run(drain=True, shard=shard)
    whole = flow(kafka_broker, "sharded-at-once", tmp_path / "whole")
    whole.run(drain=True)
    same(shards, whole)


@pytest.mark.parametrize(
    ("settings", "shard", "said"),
    [
        ({"keyed_by": None}, "1/2", r"source\.keyed_by.*write source\.keyed_by: entity"),
        ({"windows": [{**SETTINGS["windows"][0], "by": []}]}, "1/2", r"windows\.0\.by.*add entity or user"),
        ({}, "5/4", "is no shard"),
        ({}, "0/4", "is no shard"),
        ({}, "two", "is no shard"),
    ],
)
def test_what_cannot_be_sharded_is_refused(
    kafka_broker: KafkaBroker, topic: str, tmp_path: Path, settings: dict[str, Any], shard: str, said: str
) -> None:
    shards = flow(kafka_broker, topic, tmp_path / "no", **{k: v for k, v in settings.items() if k != "keyed_by"})
    if "keyed_by" in settings:
        shards.keyed_by = settings["keyed_by"]
    with pytest.raises(SettingsError, match=said):
        shards.run(shard=shard)
    with pytest.raises(LakeError):
        shards.pipeline().inspect()


def test_files_and_events_without_an_entity_have_no_shards(
    kafka_broker: KafkaBroker, topic: str, tmp_path: Path
) -> None:
    source = {"files": {"paths": ["*.jsonl"]}, "keyed_by": "entity"}
    with pytest.raises(SettingsError, match="this pipeline reads files"):
        flow(kafka_broker, topic, tmp_path / "files", source=source).run(shard="1/2")
    roles = {name: role for name, role in CONTRACT["roles"].items() if name != "entity"}  # type: ignore[attr-defined]
    nobody = flow(kafka_broker, topic, tmp_path / "nobody", contract={**CONTRACT, "roles": roles})
    nobody.settings.pop("sessions")
    with pytest.raises(SettingsError, match="names no entity"):
        nobody.run(shard="1/2")


def test_the_number_of_shards_is_settled_once(kafka_broker: KafkaBroker, topic: str, tmp_path: Path) -> None:
    shards = flow(kafka_broker, topic, tmp_path / "settled")
    shards.run(shard="1/2")
    for other in ("1/3", None):
        with pytest.raises(SettingsError, match=r"was begun in 2 shards.*--shard 1/2 to 2/2"):
            shards.run(shard=other)
    assert shards.run(shard="2/2").balanced
    one_piece = flow(kafka_broker, topic, tmp_path / "one-piece")
    one_piece.run()
    with pytest.raises(SettingsError, match="was begun without shards"):
        one_piece.run(shard="1/2")
    assert one_piece.run().run.consumed == 0
    # Begun again, it can be in another number.
    gone = shards.pipeline().reset()
    assert gone.files and gone.control
    left = [path for path in (shards.folder / "lake").rglob("*") if path.is_file()]
    assert {path.parent.name for path in left} <= {"terms"}, "a run that is still at work finds a newer term"
    assert shards.run(shard="3/3").balanced


def test_topics_of_unlike_size_are_refused(kafka_broker: KafkaBroker, topic: str, tmp_path: Path) -> None:
    kafka_broker.create_topic("sharded-smaller", partitions=3)
    shards = flow(kafka_broker, topic, tmp_path / "unlike")
    shards.topics.append("sharded-smaller")
    with pytest.raises(SettingsError, match="sharded has 4 partitions, and sharded-smaller has 3"):
        shards.run(shard="1/2")
    # As a whole they can be read; where nothing was committed, a reset takes the number of shards back.
    assert shards.pipeline().reset().files == 0
    assert shards.run().balanced


def test_commands_over_the_log_work_in_every_shard(kafka_broker: KafkaBroker, topic: str, tmp_path: Path) -> None:
    """Replay after a mended contract, compaction, and what they report."""
    shards = flow(kafka_broker, topic, tmp_path / "entries")
    for shard in ("1/2", "2/2"):
        shards.run(drain=True, shard=shard)
    mended = json.loads(json.dumps(CONTRACT))
    mended["events"]["click"]["v1"]["properties"]["at"] = {}
    mended["roles"]["event_time"] = {"kafka": "timestamp"}
    shards.settings["contract"] = mended
    replayed = shards.pipeline().replay()
    assert (replayed.letters, replayed.silver, replayed.still_bad) == (31, 30, 1)
    assert {one["shard"] for one in replayed.raw["shards"]} == {1, 2}
    assert sum(one["silver"] for one in replayed.raw["shards"]) == 30
    assert ledger(shards)["silver"] == 1_030
    shards.audit()
    before = rows(shards, "silver/events")
    compacted = shards.pipeline().compact(min_age="0s")
    assert compacted.files_after < compacted.files_before and len(compacted.entries) == 2
    assert rows(shards, "silver/events") == before
    shards.audit()


def test_a_shard_without_partitions_begins_all_the_same(kafka_broker: KafkaBroker, tmp_path: Path) -> None:
    """Where it begins is settled before its first partition is made: nothing that comes then is skipped."""
    name = kafka_broker.create_topic("one-at-first", partitions=1)
    shards = flow(kafka_broker, name, tmp_path / "p")
    kafka_broker.produce(name, [message(n) for n in range(10)])
    assert [shards.run(shard=f"{n}/2", start="latest").consumed for n in (1, 2)] == [0, 0]
    kafka_broker.add_partitions(name, 2)
    kafka_broker.produce(name, [message(n) for n in range(10, 30)], partition=1)
    assert shards.run(shard="2/2", start="latest").consumed == 20
    shards.audit()


def test_the_way_out_of_an_epoch_names_the_shard(kafka_broker: KafkaBroker, topic: str, tmp_path: Path) -> None:
    shards = flow(kafka_broker, topic, tmp_path / "void")
    with Running(shards, "--until-caught-up", "--shard=2/2", failpoint="commit.before@2=kill") as killed:
        assert killed.end() == -signal.SIGKILL
    for contract in (shards.folder / "lake/_penstock/flow/contracts").iterdir():
        contract.unlink()
    shards.settings["contract"] = {**CONTRACT, "name": "other"}
    with pytest.raises(PenstockError, match=r"`penstock run PIPELINE --void 1 --shard 2/2`"):
        shards.run(shard="2/2")


def test_new_partitions_are_warned_of_in_every_shard(kafka_broker: KafkaBroker, tmp_path: Path) -> None:
    kafka_broker.create_topic("growing-shards", partitions=2)
    kafka_broker.produce("growing-shards", [message(n) for n in range(20)])
    shards = flow(kafka_broker, "growing-shards", tmp_path / "growing")
    fast = {"topic.metadata.refresh.interval.ms": 200}
    with (
        Running(shards, "--shard=1/2", **fast) as one,
        Running(shards, "--shard=2/2", **fast) as two,
    ):
        for run in (one, two):
            # It knows the partitions that there are.
            run.wait("a commit", lambda run=run: run.seen("committed"))
        kafka_broker.add_partitions("growing-shards", 3)
        for run in (one, two):
            run.wait("the warning", lambda run=run: run.seen("warning", code="new_partitions"))


def test_the_shop_in_shards(kafka_broker: KafkaBroker, tmp_path: Path) -> None:
    """By the command line, to the warehouse: as in one piece."""
    brokers = ("--brokers", kafka_broker.bootstrap)
    events = ("--total-events", 6_000, "--seed", 8, "--bad-data-rate", 0.005, "--start", "2024-12-10", "--span", "8d")
    truth = found("produce", "ecommerce", *events, *brokers, "--topic", "shop-sharded", cwd=tmp_path)
    settings = ("--set", "source.kafka.topics=[shop-sharded]", "--set", "source.keyed_by=entity")
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    found("run", "ecommerce", "--drain", *brokers, *settings, cwd=tmp_path / "whole")
    found("load", "ecommerce", cwd=tmp_path / "whole")
    parts = tmp_path / "parts"
    said = cli("run", "ecommerce", "--drain", "--shard", "1/3", *brokers, *settings[:2], cwd=parts)
    assert said.returncode == 2 and "source.keyed_by" in said.stderr
    ran = [found("run", "ecommerce", "--drain", "--shard", "1/3", *brokers, *settings, cwd=parts)]
    first = found("load", "ecommerce", cwd=parts)
    assert first["inserted"] == ran[0]["silver"]
    ran += [
        found("run", "ecommerce", "--drain", "--shard", shard, *brokers, *settings, cwd=parts)
        for shard in ("2/3", "3/3")
    ]
    assert sum(one["silver"] for one in ran) == truth["expected"]["silver"]
    rest = found("load", "ecommerce", cwd=parts)
    assert first["inserted"] + rest["inserted"] == truth["expected"]["silver"]
    assert set(rest["shards"]) == {"ecommerce/0001", "ecommerce/0002", "ecommerce/0003"}
    assert found("load", "ecommerce", cwd=parts)["inserted"] == 0
    assert found("load", "ecommerce", "--date", "2024-12-12", cwd=parts)["updated"] == 0
    assert found("load", "ecommerce", cwd=parts)["inserted"] == 0
    audit = found("audit", "ecommerce", cwd=parts)
    assert audit["balanced"] and audit["warehouse"]["facts"] == audit["silver"] == truth["expected"]["silver"]
    assert {check["name"] for check in audit["checks"]} >= {"no partition is read by two shards"}
    assert found("quality", "ecommerce", "--date", "2024-12-17", cwd=parts)["passed"]
    page = ok("inspect", "ecommerce", cwd=parts)
    assert "Shards" in page

    def tables(folder: Path) -> list[list[tuple[Any, ...]]]:
        with duckdb.connect(folder / "warehouse.duckdb", read_only=True) as warehouse:
            return [
                warehouse.execute(f"SELECT {columns} FROM {table} ORDER BY ALL").fetchall()
                for table, columns in (("fact_events", "* EXCLUDE (lake_file)"), ("dim_user", "*"))
            ]

    assert tables(parts) == tables(tmp_path / "whole")
