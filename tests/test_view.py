"""The terminal while a pipeline runs."""

from __future__ import annotations

import io

from rich.console import Console

from penstock.view import RunView
from test_metrics import committed, lag


def test_the_view_shows_rate_lag_and_ledger() -> None:
    now = [0.0]
    console = Console(file=io.StringIO(), width=120)
    view = RunView("shop", console, clock=lambda: now[0])
    view.take({"event": "started", "term": 3, "epoch": 0, "recovering": False})
    view.take(lag(**{f"topic{i}": i for i in range(12)}))
    now[0] = 2.0
    view.take(committed())
    view.take({"event": "progress", "epoch": 1, "events": 30, "bytes": 1, "reading": "[not] markup"})
    console.print(view)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "term 3" in shown
    assert "20 events/s" in shown
    assert "lag 66" in shown
    assert "consumed 10" in shown
    assert "(+30 in hand)" in shown
    assert "reading [not] markup" in shown
    assert "topic11[0]" in shown
    assert "and 4 more" in shown
    assert "epoch 0: 10 events, 3 files" in shown


def test_the_rate_is_that_of_the_last_seconds() -> None:
    now = [0.0]
    view = RunView("shop", Console(file=io.StringIO()), clock=lambda: now[0])
    for second in range(1, 31):
        now[0] = float(second)
        view.take(committed(consumed=1000 if second <= 10 else 10))
    assert view.rate == 10.0
    assert view.lag is None
