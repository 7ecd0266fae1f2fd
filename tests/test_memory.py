"""Memory follows the epoch, never the file."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

import crash
from penstock import _core

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SMALL, FACTOR = 150_000, 4


def peak(folder: Path, events: int) -> int:
    """The peak memory of a run over so many events, at one rate, in KiB."""
    folder.mkdir()
    path = folder / "in.jsonl"
    _core.generate(
        "ecommerce", json.dumps({"total": events, "seed": 2, "events_per_second": 100.0, "users": 5_000}), str(path)
    )
    pipeline = crash.make(folder / "p", [path], epoch_events=25_000)
    process = pipeline.start()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, process.stderr and process.stderr.read()
    assert crash.newest_commit(pipeline.lake)["ledger"]["consumed"] == events
    path.unlink()
    return usage.ru_maxrss


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="this system does not tell the memory of a child")
def test_a_longer_file_needs_no_more_memory(tmp_path: Path, figure: Callable[..., None]) -> None:
    small = peak(tmp_path / "small", SMALL)
    large = peak(tmp_path / "large", SMALL * FACTOR)
    told = {f"{SMALL:,} events": f"{small // 1024} MiB", f"{SMALL * FACTOR:,} events": f"{large // 1024} MiB"}
    figure("peak memory of a file", **told)
    assert large < small * 1.25
