"""Memory follows the epoch, never the file."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import crash
from penstock import _core

if TYPE_CHECKING:
    from collections.abc import Callable

SMALL, FACTOR = 150_000, 4


def high_water(pid: int) -> int:
    """The most memory that a process had until now, in KiB; 0 when it has ended.

    What the system tells of a child after its end counts the process that it was forked from, too.
    """
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0


def peak(folder: Path, events: int) -> int:
    """The peak memory of a run over so many events, at one rate, in KiB."""
    folder.mkdir()
    path = folder / "in.jsonl"
    _core.generate(
        "ecommerce", json.dumps({"total": events, "seed": 2, "events_per_second": 100.0, "users": 5_000}), str(path)
    )
    pipeline = crash.make(folder / "p", [path], epoch_events=25_000)
    process = pipeline.start()
    most = 0
    while process.poll() is None:
        most = max(most, high_water(process.pid))
        time.sleep(0.01)
    assert process.returncode == 0, process.stderr and process.stderr.read()
    assert crash.newest_commit(pipeline.lake)["ledger"]["consumed"] == events
    path.unlink()
    return most


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell the memory of a child")
def test_a_longer_file_needs_no_more_memory(tmp_path: Path, figure: Callable[..., None]) -> None:
    small = peak(tmp_path / "small", SMALL)
    large = peak(tmp_path / "large", SMALL * FACTOR)
    told = {f"{SMALL:,} events": f"{small // 1024} MiB", f"{SMALL * FACTOR:,} events": f"{large // 1024} MiB"}
    figure("peak memory of a file", **told)
    assert large < small * 1.25
