"""State beyond the memory budget: the same output, nothing left behind, and clear words when there is no room."""

from __future__ import annotations

import json
import os
import signal
import stat
from typing import TYPE_CHECKING, Any

import pytest

import crash
from penstock import _core

if TYPE_CHECKING:
    from pathlib import Path

EVENTS = 20_000
TINY = 128 << 10


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Events with flaws, fast enough one after the other that most of them are held for a while."""
    path = tmp_path_factory.mktemp("input") / "in.jsonl"
    options = {"total": EVENTS, "seed": 5, "bad_rate": 0.02, "duplicate_rate": 0.1, "events_per_second": 100.0}
    _core.generate("ecommerce", json.dumps(options), str(path))
    return [path]


@pytest.fixture(scope="module")
def unspilled(tmp_path_factory: pytest.TempPathFactory, inputs: list[Path]) -> crash.Pipeline:
    """A run with memory enough."""
    pipeline = crash.make(tmp_path_factory.mktemp("unspilled") / "p", inputs)
    done = pipeline.run()
    assert done.returncode == 0, done.stderr
    return pipeline


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that is spilled to."""
    place = tmp_path / "spilled"
    place.mkdir()
    monkeypatch.setenv("PENSTOCK_SPILL_DIR", str(place))
    return place


def test_what_is_spilled_changes_nothing(
    tmp_path: Path, inputs: list[Path], unspilled: crash.Pipeline, place: Path
) -> None:
    pipeline = crash.make(tmp_path / "p", inputs, memory_bytes=TINY)
    commits: list[dict[str, Any]] = []

    def watch(text: str) -> None:
        event = json.loads(text)
        if event["event"] == "committed":
            commits.append(event)

    _core.run_pipeline(pipeline.spec.read_text(), until_caught_up=True, on_event=watch)
    assert commits[-1]["spills"] > 10
    assert max(c["spilled_bytes"] for c in commits) > 20 * TINY
    assert all(c["memory_budget_bytes"] == TINY // 2 for c in commits)
    assert all(c["state_bytes"] > 0 and c["state_written_bytes"] > 0 for c in commits)
    assert list(place.iterdir()) == [], "nothing is left when the run ends"
    crash.assert_same(unspilled, pipeline)


@pytest.mark.parametrize("action", ["kill", "error", "panic"])
@pytest.mark.parametrize("where", ["spill.before", "spill.after"])
def test_failpoint(
    where: str, action: str, tmp_path: Path, inputs: list[Path], unspilled: crash.Pipeline, place: Path
) -> None:
    pipeline = crash.make(tmp_path / "p", inputs, memory_bytes=TINY)
    failed = pipeline.run(failpoint=f"{where}@7={action}")
    assert f"failpoint {where}" in failed.stderr, "it did not fire"
    assert failed.returncode == (-signal.SIGKILL if action == "kill" else 3), failed.stderr
    left = list(place.iterdir())
    assert len(left) == (1 if action == "kill" else 0), "a process that can still do so takes its files away"
    if left and os.name == "posix":
        assert stat.S_IMODE(left[0].stat().st_mode) == 0o700
    done = pipeline.run()
    assert done.returncode == 0, done.stderr
    assert list(place.iterdir()) == [], "what the killed run left is gone too"
    crash.assert_same(unspilled, pipeline)


def test_no_room_is_said_and_loses_nothing(
    tmp_path: Path, inputs: list[Path], unspilled: crash.Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("PENSTOCK_SPILL_DIR", str(blocked / "below"))
    pipeline = crash.make(tmp_path / "p", inputs, memory_bytes=TINY)
    failed = pipeline.run()
    assert failed.returncode == 3
    assert "SpillError" in failed.stderr, failed.stderr
    for part in (str(blocked), "nothing is lost", "PENSTOCK_SPILL_DIR", "memory"):
        assert part in failed.stderr
    monkeypatch.setenv("PENSTOCK_SPILL_DIR", str(tmp_path / "room"))
    assert pipeline.run().returncode == 0
    crash.assert_same(unspilled, pipeline)


def test_state_as_an_older_version_wrote_it(tmp_path: Path, inputs: list[Path], unspilled: crash.Pipeline) -> None:
    pipeline = crash.make(tmp_path / "p", inputs)
    assert pipeline.run(max_epochs=9).returncode == 0
    commits = sorted((pipeline.lake / "_penstock" / crash.PIPELINE / "epochs").glob("*.commit"))
    commit = json.loads(commits[-1].read_text())
    for file in commit["state"]:
        del file["rows"], file["newest"]
    commits[-1].write_text(json.dumps(commit))
    assert pipeline.run().returncode == 0
    assert crash.files(pipeline.lake) == crash.files(unspilled.lake)
    assert crash.newest_commit(pipeline.lake)["ledger"] == crash.newest_commit(unspilled.lake)["ledger"]
    assert all(file["rows"] > 0 for file in crash.newest_commit(pipeline.lake)["state"])


def test_few_files_of_state_and_none_that_has_expired(unspilled: crash.Pipeline) -> None:
    commits = sorted((unspilled.lake / "_penstock" / crash.PIPELINE / "epochs").glob("*.commit"))
    entries = [json.loads(path.read_text()) for path in commits]
    assert len(entries) > 16
    for entry in entries:
        files: dict[str, int] = {}
        for file in entry["state"]:
            files[file["table"]] = files.get(file["table"], 0) + 1
        assert max(files.values()) < 32, files
        held = [f["newest"] for f in entry["state"] if f["table"] == "sessions/pending"]
        assert all(newest >= entry["watermark"] for newest in held)
    assert any("-merged" in f["path"] or ".merged" in f["path"] for e in entries for f in e["state"])
