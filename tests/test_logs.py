"""Logs: one line an epoch, as text or JSON, through Python's logging."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock import Pipeline
from penstock.logs import log_event, to_stderr
from services import free_port
from shop import Shop

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


@pytest.mark.parametrize(("verdict", "level"), [("incompatible", "warning"), ("full", "info")])
def test_a_contract_that_changed_is_said(verdict: str, level: str, capsys: pytest.CaptureFixture[str]) -> None:
    to_stderr("text")
    log_event("shop", {"event": "changed", "epoch": 7, "change": {"contract": {"verdict": verdict}, "settings": []}})
    [line] = capsys.readouterr().err.splitlines()
    assert f" {level}" in line and "from epoch 7 on" in line
    assert ("may not take what comes now" in line) == (verdict == "incompatible")


class _Interrupts(logging.Handler):
    """A signal that comes while a line is being written."""

    def emit(self, record: logging.LogRecord) -> None:
        raise KeyboardInterrupt


def test_a_signal_that_comes_while_a_line_is_written_is_not_lost(tmp_path: Path) -> None:
    to_stderr("text")
    logging.getLogger("penstock.kafka").addHandler(_Interrupts())
    shop = Shop.make(tmp_path)
    # Without the signal it would end with another error, and not while this test waits.
    nowhere = {"brokers": f"127.0.0.1:{free_port()}", "topics": ["t"], "group": "g", "give_up": "1h"}
    flow = Pipeline.load(shop.file, [f"source={json.dumps({'kafka': nowhere})}"])
    try:
        with pytest.raises(KeyboardInterrupt):
            flow.run(progress=False)
    finally:
        logging.getLogger("penstock.kafka").handlers.clear()
