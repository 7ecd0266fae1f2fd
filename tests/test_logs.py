"""Logs: one line an epoch, as text or JSON, through Python's logging."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from penstock.logs import log_event, to_stderr

COMMITTED = {
    "event": "committed", "epoch": 4, "files": 2, "watermark": 5, "seconds": [0.1, 0.1, 0.1, 0.5],
    "counts": {"consumed": 1000, "silver": 900, "pending": 0, "rejected": 60, "duplicate": 40, "late": 0,
               "rejected_by_code": {"wrong_type": 60}},
}  # fmt: skip


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    logger = logging.getLogger("penstock")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before[0], before[1], before[2]


def test_an_epoch_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    to_stderr("text")
    log_event("shop", COMMITTED)
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith(
        "info    run: shop: epoch 4 committed: 1,000 events, 900 silver, 60 rejected, 40 duplicate; 2 files, 0.50 s, "
        "2,000 events/s"
    )


def test_json_lines_hold_what_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    to_stderr("json")
    log_event("shop", COMMITTED)
    log_event("shop", {"event": "conflict", "what": "commit", "epoch": 4})
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert first["level"] == "info"
    assert (first["pipeline"], first["epoch"], first["consumed"]) == ("shop", 4, 1000)
    assert first["seconds"] == {"read": 0.1, "files": 0.1, "state": 0.1, "total": 0.5}
    assert (second["level"], second["what"]) == ("warning", "commit")


def test_a_second_handler_replaces_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    to_stderr("text")
    to_stderr("text", level=logging.WARNING)
    log_event("shop", COMMITTED)
    log_event("shop", {"event": "warning", "message": "group commit failed"})
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("group commit failed")
