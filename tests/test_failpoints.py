"""Every failpoint, fired over a real broker as error, panic and kill: what a reader sees, and what the next run does.

It ends as if nothing had happened.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import crash
import kafka_crash
import s3_support
from kafka_crash import Tally, all_rows, assert_readable, over, read
from kafka_support import Flow, Running, message
from penstock import _core
from sqlite_sink import held

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from services.kafka import KafkaBroker
    from services.s3 import S3Server

PLACES = _core.failpoints()
EVENTS = 2_400
EPOCH_EVENTS = 400
# The hundredth epoch takes a snapshot.
SMALL_EPOCH = 20
TINY = 16 << 10
LARGE = 20
CLOCK = 1_790_000_000
DAY = 86_400_000_000
FIRST_DAY = 1_734_393_600_000_000
# Each way to fail comes at another kind of entry. (Over files, all ways come at all kinds.)
BESIDES = ("epoch", "contract_version")
ENTRIES: dict[str, tuple[str, dict[str, Any]]] = {
    "kill": ("replay", {"codes": ["late"]}),
    "error": ("compact", {"min_age_us": 0}),
    "panic": ("backfill", {"from_us": FIRST_DAY, "to_us": FIRST_DAY + 2 * DAY}),
}

every_action = pytest.mark.parametrize("action", ["error", "panic", "kill"])


def every(*areas: str) -> Any:
    """Every place of these areas."""
    return pytest.mark.parametrize("place", [p for p in PLACES if p.split(".")[0] in areas])


@pytest.fixture
def tally(figure: Callable[..., None]) -> Iterator[Tally]:
    tally = Tally()
    yield tally
    figure(
        "failpoints over Kafka",
        places=sorted(tally.places),
        fired=tally.fired,
        **tally.by_action,
        lost=tally.lost,
        duplicated=tally.duplicated,
    )


@pytest.fixture(scope="module")
def topic(kafka_broker: KafkaBroker, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Events with flaws, duplicates and late ones."""
    path = tmp_path_factory.mktemp("input") / "in.jsonl"
    options = {"total": EVENTS, "seed": 5, "bad_rate": 0.05, "duplicate_rate": 0.05, "late_rate": 0.02}
    _core.generate("ecommerce", json.dumps(options), str(path))
    name = kafka_broker.create_topic("failpoints", partitions=1)
    lines = path.read_bytes().splitlines()
    kafka_broker.produce(name, [{"value": line, "timestamp": FIRST_DAY // 1_000 + n} for n, line in enumerate(lines)])
    assert kafka_broker.end_offsets(name) == {0: EVENTS}
    return name


@pytest.fixture(scope="module")
def undisturbed(kafka_broker: KafkaBroker, topic: str, tmp_path_factory: pytest.TempPathFactory) -> crash.Pipeline:
    """A run that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed") / "p"
    pipeline = over(crash.make(folder, [], epoch_events=EPOCH_EVENTS), kafka_broker, topic)
    done = pipeline.run()
    assert done.returncode == 0, done.stderr
    counts = pipeline.ledger()
    assert counts["consumed"] == EVENTS
    assert all(counts[name] > 30 for name in ("silver", "rejected", "duplicate", "late"))
    assert counts["epochs"] == 1 + EVENTS // EPOCH_EVENTS, "an empty one, then full ones"
    assert assert_readable(pipeline) == {0: EVENTS}
    return pipeline


@pytest.fixture(scope="module")
def silver(undisturbed: crash.Pipeline) -> list[dict[str, Any]]:
    return read(undisturbed, "silver/events")


@pytest.fixture
def pipeline(kafka_broker: KafkaBroker, topic: str, tmp_path: Path) -> crash.Pipeline:
    """A pipeline that has not run yet."""
    return over(crash.make(tmp_path / "p", [], epoch_events=EPOCH_EVENTS), kafka_broker, topic)


@every_action
@every("term", "read", "plan", "files", "state", "commit", "offsets")
def test_an_epoch(
    place: str,
    action: str,
    pipeline: crash.Pipeline,
    topic: str,
    undisturbed: crash.Pipeline,
    silver: list[dict[str, Any]],
    kafka_broker: KafkaBroker,
    tally: Tally,
) -> None:
    nth = 1 if place.startswith("term.") else 3
    failed = pipeline.run(failpoint=f"{place}@{nth}={action}")
    # What the consumer group is told is for those who look at lag: without it the run goes on.
    survives = place.startswith("offsets.")
    tally.failed(failed, place, action, survives=survives)
    committed = assert_readable(pipeline)
    group = kafka_crash.group(pipeline)
    told = kafka_broker.group_offsets(group, topic)
    if survives and action == "error":
        assert committed == told == {0: EVENTS}
    elif survives:
        assert committed == {0: 3 * EPOCH_EVENTS}
        assert told == ({0: 2 * EPOCH_EVENTS} if place == "offsets.before" else committed)
    else:
        assert told.get(0, 0) <= committed.get(0, 0), "nothing is acknowledged before it is durable"
    done = pipeline.run()
    assert done.returncode == 0, done.stderr
    crash.assert_same(undisturbed, pipeline)
    assert kafka_broker.group_offsets(group, topic) == {0: EVENTS}
    tally.count(EVENTS, silver, pipeline)


@every_action
@every("sink")
def test_an_epoch_into_a_database(
    place: str,
    action: str,
    pipeline: crash.Pipeline,
    undisturbed: crash.Pipeline,
    silver: list[dict[str, Any]],
    tmp_path: Path,
    tally: Tally,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database = tmp_path / "sink.db"
    monkeypatch.setenv("PENSTOCK_TEST_SINK", str(database))
    tally.failed(pipeline.run(failpoint=f"{place}@3={action}"), place, action)
    committed = assert_readable(pipeline)
    epochs, _, offsets = held(database)
    ahead = 1 if place == "sink.after" else 0
    assert list(epochs) == list(range(2 + ahead))
    assert offsets[next(iter(offsets))] == committed[0] + ahead * EPOCH_EVENTS
    done = pipeline.run()
    assert done.returncode == 0, done.stderr
    crash.assert_same(undisturbed, pipeline)
    _, keys, offsets = held(database)
    assert keys == Counter(row["idempotency_key"] for row in silver)
    assert list(offsets.values()) == [EVENTS]
    tally.count(EVENTS, silver, pipeline)


@every_action
@every("spill")
def test_state_that_spills(
    place: str,
    action: str,
    kafka_broker: KafkaBroker,
    topic: str,
    tmp_path: Path,
    undisturbed: crash.Pipeline,
    silver: list[dict[str, Any]],
    tally: Tally,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    room = tmp_path / "room"
    room.mkdir()
    monkeypatch.setenv("PENSTOCK_SPILL_DIR", str(room))
    plain = crash.make(tmp_path / "p", [], epoch_events=EPOCH_EVENTS, memory_bytes=TINY)
    pipeline = over(plain, kafka_broker, topic)
    tally.failed(pipeline.run(failpoint=f"{place}@5={action}"), place, action)
    assert_readable(pipeline)
    done = pipeline.run()
    assert done.returncode == 0, done.stderr
    assert list(room.iterdir()) == []
    crash.assert_same(undisturbed, pipeline)
    tally.count(EVENTS, silver, pipeline)


@pytest.fixture(scope="module")
def small_epochs(
    kafka_broker: KafkaBroker, topic: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[crash.Pipeline, crash.Pipeline]:
    """A run of many epochs just before its snapshot, and at its end."""
    folder = tmp_path_factory.mktemp("small")
    before = over(crash.make(folder / "before", [], epoch_events=SMALL_EPOCH), kafka_broker, topic)
    assert before.run(max_epochs=98).returncode == 0
    after = over(crash.make(folder / "after", [], epoch_events=SMALL_EPOCH), kafka_broker, topic)
    shutil.copytree(before.lake, after.lake)
    assert after.run().returncode == 0
    assert snapshots(before) == []
    assert snapshots(after) == ["0000000099"]
    return before, after


def snapshots(pipeline: crash.Pipeline) -> list[str]:
    folder = pipeline.lake / "_penstock" / crash.PIPELINE / "snapshots"
    return sorted(path.name for path in folder.glob("*"))


@every_action
@every("snapshot")
def test_a_snapshot(
    place: str,
    action: str,
    kafka_broker: KafkaBroker,
    topic: str,
    tmp_path: Path,
    small_epochs: tuple[crash.Pipeline, crash.Pipeline],
    tally: Tally,
) -> None:
    before, after = small_epochs
    pipeline = over(crash.make(tmp_path / "p", [], epoch_events=SMALL_EPOCH), kafka_broker, topic)
    shutil.copytree(before.lake, pipeline.lake)
    tally.failed(pipeline.run(failpoint=f"{place}={action}"), place, action)
    assert_readable(pipeline)
    done = pipeline.run()
    assert done.returncode == 0, done.stderr
    crash.assert_same(after, pipeline)
    tally.count(EVENTS, read(after, "silver/events"), pipeline)


@pytest.fixture(scope="module")
def large(
    kafka_broker: KafkaBroker, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, crash.Pipeline, list[dict[str, Any]]]:
    """A topic whose file is put in parts, and what comes of it on a disk."""
    folder = tmp_path_factory.mktemp("large")
    name = kafka_broker.create_topic("failpoints-large", partitions=1)
    _core.generate("ecommerce", json.dumps({"total": 200, "seed": 6, "bad_rate": 0.0}), str(folder / "in.jsonl"))
    lines = (folder / "in.jsonl").read_bytes().splitlines()
    noise = [os.urandom(900 << 10) for _ in range(LARGE)]
    kafka_broker.produce(name, [{"value": v, "timestamp": FIRST_DAY // 1_000 + n} for n, v in enumerate(lines + noise)])
    pipeline = over(crash.make(folder / "p", [], epoch_events=10_000), kafka_broker, name)
    done = pipeline.run()
    assert done.returncode == 0, done.stderr
    assert pipeline.ledger()["rejected_by_code"] == {"malformed_json": LARGE}
    return name, pipeline, read(pipeline, "silver/events")


@every_action
@every("upload")
def test_a_large_file_on_s3(
    place: str,
    action: str,
    kafka_broker: KafkaBroker,
    s3: S3Server,
    tmp_path: Path,
    large: tuple[str, crash.Pipeline, list[dict[str, Any]]],
    tally: Tally,
) -> None:
    topic, whole, silver = large
    pipeline = over(s3_support.make(tmp_path / "p", [], s3, epoch_events=10_000), kafka_broker, topic)
    nth = 2 if place == "upload.part" else 1
    tally.failed(pipeline.run(failpoint=f"{place}@{nth}={action}"), place, action)
    assert assert_readable(pipeline) == {0: 0}
    done = pipeline.run()
    assert done.returncode == 0, done.stderr
    s3_support.assert_same(whole, pipeline)
    tally.count(200 + LARGE, silver, pipeline)


@every_action
@every("sweep")
def test_sweeping(
    place: str,
    action: str,
    pipeline: crash.Pipeline,
    undisturbed: crash.Pipeline,
    silver: list[dict[str, Any]],
    tally: Tally,
) -> None:
    assert pipeline.run(max_epochs=3).returncode == 0
    state = pipeline.lake / "_penstock" / crash.PIPELINE / "state"
    strays = [state / f"{epoch:010}-{'0' * 32}-dedup.keys.arrow" for epoch in (0, 1)]
    for stray in strays:
        stray.write_bytes(b"stray")
        os.utime(stray, (CLOCK - 3600, CLOCK - 3600))
    tally.failed(pipeline.run(failpoint=f"{place}={action}"), place, action)
    assert_readable(pipeline)
    done = pipeline.run()
    assert done.returncode == 0, done.stderr
    assert not any(stray.exists() for stray in strays)
    crash.assert_same(undisturbed, pipeline)
    tally.count(EVENTS, silver, pipeline)


@pytest.fixture(scope="module")
def without_epochs(undisturbed: crash.Pipeline) -> dict[str, list[str]]:
    """Its rows without what says in which epoch, and under which contract, they came."""
    return all_rows(undisturbed, *BESIDES)


@every_action
@every("void")
def test_giving_an_epoch_up(
    place: str,
    action: str,
    pipeline: crash.Pipeline,
    undisturbed: crash.Pipeline,
    without_epochs: dict[str, list[str]],
    silver: list[dict[str, Any]],
    tally: Tally,
) -> None:
    assert pipeline.run(failpoint="commit.before@3=kill").returncode < 0
    for contract in (pipeline.lake / "_penstock" / crash.PIPELINE / "contracts").iterdir():
        contract.unlink()
    spec = json.loads(pipeline.spec.read_text())
    spec["contract_text"] = spec["contract_text"].replace("name: ecommerce", "name: shop", 1)
    pipeline.spec.write_text(json.dumps(spec))
    assert "--void 2" in pipeline.run().stderr
    tally.failed(pipeline.run(void=2, failpoint=f"{place}={action}"), place, action)
    assert assert_readable(pipeline) == {0: EPOCH_EVENTS}
    done = pipeline.run(void=2)
    assert done.returncode == 0, done.stderr
    # An epoch is in between, and the contract is another: the rows are the same.
    assert all_rows(pipeline, *BESIDES) == without_epochs
    found, wanted = pipeline.ledger(), undisturbed.ledger()
    assert found["recount"] == wanted["recount"]
    assert found["uncommitted_files"] == []
    tally.count(EVENTS, silver, pipeline)


@pytest.fixture(scope="module")
def entered(
    undisturbed: crash.Pipeline, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[crash.Pipeline, dict[str, list[str]]]]:
    """What each kind of entry leads to when nothing happens, and its rows."""
    found = {}
    for kind, options in ENTRIES.values():
        pipeline = copied(undisturbed, tmp_path_factory.mktemp(kind))
        done = kafka_crash.entry(pipeline, kind, options)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["entries"], "it did something"
        found[kind] = (pipeline, all_rows(pipeline, *BESIDES))
    return found


def copied(pipeline: crash.Pipeline, folder: Path) -> crash.Pipeline:
    """The same with a lake of its own."""
    shutil.copytree(pipeline.lake, folder / "lake")
    spec = json.loads(pipeline.spec.read_text()) | {"lake": str(folder / "lake")}
    (folder / "spec.json").write_text(json.dumps(spec))
    return replace(pipeline, folder=folder, lake=folder / "lake", spec=folder / "spec.json")


@every_action
@every("entry")
def test_an_entry_of_the_log(
    place: str,
    action: str,
    tmp_path: Path,
    undisturbed: crash.Pipeline,
    without_epochs: dict[str, list[str]],
    entered: dict[str, tuple[crash.Pipeline, dict[str, list[str]]]],
    tally: Tally,
) -> None:
    kind, options = ENTRIES[action]
    pipeline = copied(undisturbed, tmp_path)
    tally.failed(kafka_crash.entry(pipeline, kind, options, f"{place}={action}"), place, action)
    wanted, after = entered[kind]
    assert all_rows(pipeline, *BESIDES) in (without_epochs, after), "a reader sees the old rows or the new ones"
    # Whoever comes next finishes it: here the stream.
    done = pipeline.run()
    assert done.returncode == 0, done.stderr
    done = kafka_crash.entry(pipeline, kind, options)
    assert done.returncode == 0, done.stderr
    assert all_rows(pipeline, *BESIDES) == after
    assert pipeline.ledger()["recount"] == wanted.ledger()["recount"]
    tally.count(EVENTS, read(wanted, "silver/events"), pipeline)


# --- what is told -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["offsets.before", "offsets.after"])
def test_a_group_that_is_not_told_is_a_warning(place: str, kafka_broker: KafkaBroker, tmp_path: Path) -> None:
    topic = kafka_broker.create_topic(f"untold-{place.replace('.', '-')}", partitions=3)
    flow = Flow(tmp_path / topic, kafka_broker, [topic])
    kafka_broker.produce(topic, [message(n) for n in range(60)])
    with Running(flow, failpoint=f"{place}=error") as run:
        run.wait("the events", lambda: run.consumed() == 60)
        run.wait("the warning", lambda: run.seen("warning", code="offsets_not_committed"))
        (warning,) = run.seen("warning")
        assert f"failpoint {place}" in warning["message"]
        # The next epoch tells what this one could not, of its own partition and of the others.
        kafka_broker.produce(topic, [message(n) for n in range(60, 120)], partition=1)
        run.wait("more events", lambda: run.consumed() == 120)
        ends = kafka_broker.end_offsets(topic)
        run.wait("the group to know", lambda: kafka_broker.group_offsets(flow.group, topic) == ends)
        assert run.stop() == 0
    flow.audit()


def test_a_group_that_a_killed_run_did_not_tell(kafka_broker: KafkaBroker, tmp_path: Path) -> None:
    """The next epoch tells it, also of partitions that nothing came from since."""
    topic = kafka_broker.create_topic("untold-killed", partitions=3)
    flow = Flow(tmp_path / topic, kafka_broker, [topic])
    kafka_broker.produce(topic, [message(n) for n in range(60)])
    with Running(flow, "--until-caught-up", failpoint="offsets.before=kill") as killed:
        assert killed.end() == -signal.SIGKILL
    # It knows where reading began, and nothing of what was read since.
    assert kafka_broker.group_offsets(flow.group, topic) == dict.fromkeys(range(3), 0)
    kafka_broker.produce(topic, [message(60)], partition=1)
    assert flow.run().consumed == 61
    assert kafka_broker.group_offsets(flow.group, topic) == kafka_broker.end_offsets(topic)
    flow.audit()


@pytest.mark.parametrize(("action", "code"), [("error", 5), ("panic", 5), ("kill", -9)])
def test_the_command_line_says_it_with_its_exit_code(
    action: str, code: int, kafka_broker: KafkaBroker, topic: str, tmp_path: Path
) -> None:
    flow = Flow(tmp_path / "flow", kafka_broker, [topic])
    flow.pipeline()
    command = [sys.executable, "-m", "penstock", "run", str(flow.folder / "pipeline.yaml"), "--until-caught-up"]
    env = os.environ | {"PENSTOCK_FAILPOINT": f"plan.after={action}"}
    failed = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert failed.returncode == code, failed.stderr
    assert "failpoint plan.after" in failed.stderr
    assert "Traceback" not in failed.stderr and "PanicException" not in failed.stderr
    assert flow.run().consumed == EVENTS
    flow.audit()


# --- the count --------------------------------------------------------------------------------------------------------


def test_every_place_is_fired() -> None:
    """No place is without a test here."""
    areas = {"term", "read", "plan", "files", "state", "sink", "commit", "offsets", "spill", "snapshot", "upload",
             "sweep", "void", "entry"}  # fmt: skip
    areas |= {"load"}  # in test_warehouse_failpoints
    assert {place.split(".")[0] for place in PLACES} == areas
    assert len(set(PLACES)) == len(PLACES) >= 25
