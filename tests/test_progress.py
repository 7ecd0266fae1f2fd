"""Progress: a line in a terminal, a paragraph in a notebook, nothing where nobody looks."""

from __future__ import annotations

import json
import sys
from typing import Any

import nbclient
import nbformat
import pytest

from penstock import progress

EVENTS = (
    {"event": "started", "term": 1, "epoch": 0},
    {"event": "progress", "epoch": 0, "events": 700, "reading": "in/[a].jsonl"},
    {"event": "committed", "epoch": 0, "counts": {"consumed": 1_000}},
    {"event": "progress", "epoch": 1, "events": 234, "reading": "in/b.jsonl"},
)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_QUIET_SECONDS", -1.0)
    monkeypatch.setattr(progress, "_REDRAW_SECONDS", -1.0)


def test_nothing_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.Progress("shop") as shown:
        assert shown.callback is None, "the engine does not even call"
    with progress.Progress("shop", False, also=[].append) as shown:
        assert shown.callback
        shown.callback(json.dumps(EVENTS[1]))
    assert capsys.readouterr() == ("", "")


def test_a_line_in_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    told: list[Any] = []
    with progress.Progress("shop", True, also=told.append) as shown:
        assert shown.callback
        for event in EVENTS:
            shown.callback(json.dumps(event))
        text = shown._text()
    assert text.startswith("shop: 1,234 events, ")
    assert text.endswith("1 epochs committed, in/b.jsonl")
    assert told == list(EVENTS)
    out, err = capsys.readouterr()
    assert out == "", "standard output is for results"
    assert "events" in err


def test_a_paragraph_in_a_notebook() -> None:
    cell = (
        "import json\n"
        "from penstock import progress\n"
        "assert progress.in_notebook()\n"
        "progress._QUIET_SECONDS = progress._REDRAW_SECONDS = -1\n"
        "with progress.Progress('shop') as shown:\n"
        "    shown.callback(json.dumps({'event': 'progress', 'events': 700, 'reading': '<in>'}))\n"
        "    shown.callback(json.dumps({'event': 'progress', 'events': 900, 'reading': '<in>'}))\n"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    (output,) = notebook.cells[0].outputs
    shown = output["data"]["text/html"]
    assert "shop: 900 events" in shown
    assert "&lt;in&gt;, done" in shown


def test_a_terminal_with_ipython_is_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    class IPython:
        @staticmethod
        def get_ipython() -> None:
            return None

    monkeypatch.setitem(sys.modules, "IPython", IPython)  # type: ignore[arg-type]
    assert not progress.in_notebook()
