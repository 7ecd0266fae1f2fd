"""What the crash tests share: a pipeline that can be run again byte for byte, and the comparison of two lakes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.ipc

from penstock import _core

RUNNER = Path(__file__).with_name("engine_run.py")
PIPELINE = "crash"
CONTRACT = Path(__file__).parents[1] / "python/penstock/pipelines/ecommerce/contract.yaml"
LAYERS = ("bronze", "silver", "dead_letters", "gold")


@dataclass(frozen=True)
class Pipeline:
    """A pipeline over generated files, with clock and key fixed."""

    folder: Path
    lake: Path
    spec: Path

    def start(
        self, *, failpoint: str | None = None, max_epochs: int | None = None, void: int | None = None
    ) -> subprocess.Popen[str]:
        """Starts a run of its own process."""
        env = {k: v for k, v in os.environ.items() if k != "PENSTOCK_FAILPOINT"}
        if failpoint:
            env["PENSTOCK_FAILPOINT"] = failpoint
        command = [sys.executable, str(RUNNER), str(self.spec)]
        if max_epochs is not None or void is not None:
            command.append("all" if max_epochs is None else str(max_epochs))
        if void is not None:
            command.append(str(void))
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(
        self, *, failpoint: str | None = None, max_epochs: int | None = None, void: int | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs to the end."""
        process = self.start(failpoint=failpoint, max_epochs=max_epochs, void=void)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def ledger(self) -> dict[str, Any]:
        """The ledger, counted again from the files."""
        audit: dict[str, Any] = json.loads(_core.audit(self.spec.read_text()))
        failed = [c for c in audit["checks"] if not c["passed"]]
        assert audit["balanced"] and not failed, failed
        return audit


def halted(process: subprocess.Popen[str]) -> None:
    """Waits until a failpoint has stopped a process: it stands still until SIGCONT comes."""
    found = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    assert found is not None and found.si_code == os.CLD_STOPPED, f"it ended before it stopped: {process.wait()}"


def some_moment(process: subprocess.Popen[str], seconds: float) -> None:
    """Lets a process run for this time, or until it stands still or ends."""
    options = os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG
    deadline = time.monotonic() + seconds
    while os.waitid(os.P_PID, process.pid, options) is None and (left := deadline - time.monotonic()) > 0:
        threading.Event().wait(min(0.005, left))


def make(
    folder: Path,
    inputs: list[Path],
    *,
    durability: str = "process",
    epoch_events: int = 1_000,
    memory_bytes: int | None = None,
) -> Pipeline:
    """A pipeline over `inputs` in a folder of its own."""
    folder.mkdir(parents=True)
    lake = folder / "lake"
    spec = folder / "spec.json"
    minute = 60_000_000
    settings = {
        "name": PIPELINE,
        "contract_text": CONTRACT.read_text(),
        "contract_path": str(CONTRACT),
        "source": {"files": {"paths": [str(p) for p in inputs], "bounded": True}},
        "lake": str(lake),
        "layers": ["bronze", "silver"],
        "watermark": {"lateness_us": 2 * minute, "idle_timeout_us": minute, "max_future_skew_us": 5 * minute},
        "deduplicate": {"horizon_us": 60 * minute},
        "sessions": {"gap_us": 5 * minute, "max_duration_us": 24 * 60 * minute},
        "windows": [
            {
                "name": "per_minute",
                "size_us": minute,
                "by": ["event_type"],
                "aggregates": [["events", "count()"], ["users", "approx_count_distinct(entity)"]],
            }
        ],
        "epoch": {"max_events": epoch_events, "max_bytes": 64 << 20, "max_wait_us": 1_000_000},
        "durability": durability,
        "memory_bytes": memory_bytes,
        "fixed": {"clock_us": 1_790_000_000_000_000, "key": "000102030405060708090a0b0c0d0e0f"},
    }
    spec.write_text(json.dumps(settings))
    return Pipeline(folder, lake, spec)


def files(lake: Path) -> dict[str, str]:
    """Every data file of a lake with the hash of its bytes."""
    found = {}
    for layer in LAYERS:
        for path in sorted((lake / layer).rglob("*")):
            if path.is_file():
                found[str(path.relative_to(lake))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def newest_commit(lake: Path) -> dict[str, Any]:
    """The newest commit."""
    commits = sorted((lake / "_penstock" / PIPELINE / "epochs").glob("*.commit"))
    commit: dict[str, Any] = json.loads(commits[-1].read_text())
    return commit


def state(lake: Path) -> list[tuple[str, int, Any]]:
    """The state that counts: table, epoch and rows, in order."""
    rows = []
    for file in newest_commit(lake)["state"]:
        with pyarrow.ipc.open_file(lake / file["path"]) as reader:
            rows.append((file["table"], file["epoch"], reader.read_all()))
    return rows


def assert_same(a: Pipeline, b: Pipeline) -> None:
    """Layers file for file, state and ledger row for row."""
    theirs, ours = files(a.lake), files(b.lake)
    assert ours.keys() == theirs.keys()
    assert [p for p in ours if ours[p] != theirs[p]] == []
    assert newest_commit(a.lake)["ledger"] == newest_commit(b.lake)["ledger"]
    left, right = state(a.lake), state(b.lake)
    assert [(t, e) for t, e, _ in left] == [(t, e) for t, e, _ in right]
    for (table, epoch, x), (_, _, y) in zip(left, right, strict=True):
        assert x.equals(y), f"state {table} of epoch {epoch} differs"
    assert a.ledger()["recount"] == b.ledger()["recount"]
