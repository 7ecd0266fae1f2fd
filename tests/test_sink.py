"""Epochs into a database: whatever is killed on the way, its rows are those of Silver, each once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

import crash
import penstock
from penstock import _core
from penstock.errors import InternalError, LakeError, PenstockError, SupersededError, WarehouseError
from sqlite_sink import BrokenSink, SqliteSink, held

if TYPE_CHECKING:
    from pathlib import Path

EVENTS = 5_000
ACTIONS = {"kill": -signal.SIGKILL, "error": 3, "panic": 3}

every_action = pytest.mark.parametrize("action", ACTIONS)
every_place = pytest.mark.parametrize("place", [p for p in _core.failpoints() if p.startswith("sink.")])


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    path = tmp_path_factory.mktemp("input") / "in.jsonl"
    options = {"total": EVENTS, "seed": 5, "bad_rate": 0.05, "duplicate_rate": 0.05}
    _core.generate("ecommerce", json.dumps(options), str(path))
    return [path]


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the runs of a test write their epochs."""
    monkeypatch.setenv("PENSTOCK_TEST_SINK", str(tmp_path / "sink.db"))
    return tmp_path / "sink.db"


@pytest.fixture
def pipeline(tmp_path: Path, inputs: list[Path]) -> crash.Pipeline:
    """A pipeline of several epochs that has not run yet."""
    return crash.make(tmp_path / "p", inputs)


def commits(pipeline: crash.Pipeline) -> dict[int, dict[str, Any]]:
    """The log."""
    epochs = pipeline.lake / "_penstock" / crash.PIPELINE / "epochs"
    found = [json.loads(path.read_text()) for path in sorted(epochs.glob("*.commit"))]
    return {commit["number"]: commit for commit in found}


def assert_same(pipeline: crash.Pipeline, database: Path, *, ahead: bool = False) -> int:
    """The database holds the rows of Silver, each once, and stands where the log stands; or one epoch ahead of it."""
    epochs, keys, offsets = held(database)
    log = commits(pipeline)
    known = {number: "void" if commit["kind"] == "void" else "epoch" for number, commit in log.items()}
    if ahead:
        assert epochs == known | {len(log): "epoch"}
        return len(log)
    assert epochs == known
    files = [file for commit in log.values() for file in commit["files"]]
    layer = "silver/events"
    silver = penstock.read_lake(pipeline.lake, layer) if any(f["layer"] == layer for f in files) else None
    assert keys == Counter(pa.table(silver)["idempotency_key"].to_pylist() if silver else [])
    assert not keys or set(keys.values()) == {1}
    stand = {(p["topic"], p["partition"]): p["position"] for c in log.values() for p in c["partitions"]}
    assert offsets == stand
    return len(log)


def assert_done(pipeline: crash.Pipeline, database: Path) -> None:
    """All went in, and nothing is outstanding."""
    assert assert_same(pipeline, database) > 4
    counts = pipeline.ledger()
    assert (counts["consumed"], counts["pending"], counts["uncommitted_files"]) == (EVENTS, 0, [])
    assert held(database)[1].total() == counts["silver"]


@every_action
@every_place
def test_killed_around_the_sink(place: str, action: str, pipeline: crash.Pipeline, database: Path) -> None:
    failed = pipeline.run(failpoint=f"{place}@3={action}")
    assert f"failpoint {place}" in failed.stderr, failed.stderr
    assert failed.returncode == ACTIONS[action], failed.stderr
    # The epoch in hand is in the database or not; it is not in the log.
    assert_same(pipeline, database, ahead=place == "sink.after")
    assert len(commits(pipeline)) == 2
    done = pipeline.run()
    assert done.returncode == 0, done.stderr
    assert_done(pipeline, database)


@pytest.mark.parametrize("place", ["commit.before", "commit.after", "plan.after", "files.after"])
def test_killed_elsewhere(place: str, pipeline: crash.Pipeline, database: Path) -> None:
    assert pipeline.run(failpoint=f"{place}@3=kill").returncode == -signal.SIGKILL
    assert_same(pipeline, database, ahead=place == "commit.before")
    assert pipeline.run().returncode == 0
    assert_done(pipeline, database)


def test_what_the_database_holds_is_not_given_up(pipeline: crash.Pipeline, database: Path) -> None:
    assert pipeline.run(failpoint="sink.after@3=kill").returncode == -signal.SIGKILL
    refused = pipeline.run(void=2)
    assert refused.returncode == 3
    assert "SQLite holds epoch 2 already" in refused.stderr
    assert_same(pipeline, database, ahead=True)
    assert pipeline.run().returncode == 0
    assert_done(pipeline, database)


def test_an_epoch_given_up_never_goes_in(pipeline: crash.Pipeline, database: Path) -> None:
    assert pipeline.run(failpoint="sink.before@3=kill").returncode == -signal.SIGKILL
    assert pipeline.run(void=2).returncode == 0
    assert held(database)[0][2] == "void"
    assert_done(pipeline, database)


@every_action
def test_giving_up_is_finished_by_the_next_run(action: str, pipeline: crash.Pipeline, database: Path) -> None:
    """It was forbidden, and the log does not say so: nobody could run it any more."""
    assert pipeline.run(failpoint="sink.before@3=kill").returncode == -signal.SIGKILL
    assert pipeline.run(void=2, failpoint=f"void.before={action}").returncode == ACTIONS[action]
    assert held(database)[0] == {0: "epoch", 1: "epoch", 2: "void"}
    assert len(commits(pipeline)) == 2
    done = pipeline.run()
    assert done.returncode == 0, done.stderr
    assert commits(pipeline)[2]["kind"] == "void"
    assert_done(pipeline, database)


def test_one_that_slept_finds_the_number_taken(pipeline: crash.Pipeline, database: Path) -> None:
    """It looked at the term, slept, and wakes when others have given its epoch up and gone on."""
    slept = pipeline.start(failpoint="sink.before@3=stop")
    try:
        crash.halted(slept)
        done = pipeline.run(void=2)
        assert done.returncode == 0, done.stderr
        assert_done(pipeline, database)
        slept.send_signal(signal.SIGCONT)
        _, said = slept.communicate(timeout=120)
    finally:
        slept.kill()
    assert slept.returncode == 3
    assert "SupersededError" in said
    assert_done(pipeline, database)


def test_one_that_slept_finds_its_epoch_there(pipeline: crash.Pipeline, database: Path) -> None:
    slept = pipeline.start(failpoint="sink.before@3=stop")
    try:
        crash.halted(slept)
        assert pipeline.run(max_epochs=1).returncode == 0
        slept.send_signal(signal.SIGCONT)
        _, said = slept.communicate(timeout=120)
    finally:
        slept.kill()
    assert slept.returncode == 3
    assert "SupersededError" in said
    assert_same(pipeline, database)
    assert pipeline.run().returncode == 0
    assert_done(pipeline, database)


@pytest.mark.parametrize(
    "error",
    [
        WarehouseError("warehouse w: the disk is full"),
        LakeError("lake l: is away"),
        SupersededError("term 1 was replaced", ours=1, theirs=7, holder="process 3"),
    ],
)
def test_what_a_sink_raises_goes_through(error: PenstockError, pipeline: crash.Pipeline) -> None:
    with pytest.raises(type(error)) as raised:
        _core.run_pipeline(pipeline.spec.read_text(), until_caught_up=True, sinks=[BrokenSink(error)])
    if isinstance(error, SupersededError):
        assert isinstance(raised.value, SupersededError)
        assert (raised.value.ours, raised.value.theirs, raised.value.holder) == (1, 7, "process 3")
    else:
        assert str(raised.value) == str(error)
    assert commits(pipeline) == {}


def test_another_exception_is_a_fault(pipeline: crash.Pipeline) -> None:
    with pytest.raises(InternalError, match="ZeroDivisionError: by nothing"):
        _core.run_pipeline(
            pipeline.spec.read_text(), until_caught_up=True, sinks=[BrokenSink(ZeroDivisionError("by nothing"))]
        )
    with pytest.raises(AttributeError, match="name"):
        _core.run_pipeline(pipeline.spec.read_text(), until_caught_up=True, sinks=[object()])  # type: ignore[list-item]


def test_a_second_sink_that_fails_leaves_the_first_ahead(pipeline: crash.Pipeline, tmp_path: Path) -> None:
    spec = pipeline.spec.read_text()
    good = SqliteSink(tmp_path / "sink.db", spec)
    with pytest.raises(WarehouseError):
        _core.run_pipeline(spec, until_caught_up=True, sinks=[good, BrokenSink()])
    assert_same(pipeline, good.file, ahead=True)
    other = SqliteSink(tmp_path / "other.db", spec)
    _core.run_pipeline(spec, until_caught_up=True, sinks=[good, other])
    assert_done(pipeline, good.file)
    assert held(other.file) == held(good.file)


ASKS = """
import json, sys
from pathlib import Path
from penstock import _core

spec = Path(sys.argv[1]).read_text()

class Asks:
    name = "one that asks"

    def write(self, epoch):
        number = json.loads(epoch)["number"]
        assert [entry["number"] for entry in json.loads(_core.lake_log(spec, number - 2))] == [number - 1][: number]
        return True

    def forbid(self, epoch, term):
        return True

_core.run_pipeline(spec, until_caught_up=True, sinks=[Asks()])
"""


def test_a_sink_may_ask_the_engine_where_there_is_one_processor(pipeline: crash.Pipeline) -> None:
    """The engine's only thread waits for the sink, and the sink for an answer of the engine's."""
    done = subprocess.run(
        [sys.executable, "-c", ASKS, str(pipeline.spec)],
        env=os.environ | {"RAYON_NUM_THREADS": "1"},
        timeout=60,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(commits(pipeline)) > 4
